"""What a program uses to hand over jobs and to ask about them; bgd.client.asynchronous is its other form."""

from __future__ import annotations

from bgd.client.background import run_background_job
from bgd.client.blocking import Client, Job

__all__ = ["Client", "Job", "run_background_job"]
