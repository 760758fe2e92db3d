"""What a program uses to hand over jobs and to ask about them."""

from __future__ import annotations

from bgd.client.background import run_background_job
from bgd.client.client import Client
from bgd.client.job import Job

__all__ = ["Client", "Job", "run_background_job"]
