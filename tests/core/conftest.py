"""What all tests of the core share."""

from __future__ import annotations

import pytest

from bgd.core import packed_jobs


@pytest.fixture(autouse=True)
def _few_jobs_are_packed_like_many(monkeypatch):
    monkeypatch.setattr(packed_jobs, "_FEW", 0)
