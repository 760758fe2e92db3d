"""What every test may count on."""

import os

from hypothesis import settings

settings.register_profile("ci", max_examples=200, stateful_step_count=40, deadline=None, print_blob=True)
settings.register_profile(
    "long", parent=settings.get_profile("ci"), max_examples=2000, stateful_step_count=60
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
