"""The client for programs that wait in threads; most of it is generated from `bgd.client.async_`."""

from __future__ import annotations

from bgd.client.blocking.client import Client
from bgd.client.blocking.job import Job

__all__ = ["Client", "Job"]
