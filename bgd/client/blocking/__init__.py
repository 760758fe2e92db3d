"""The client for programs that wait in threads; most of it is made from bgd.client.asynchronous."""

from __future__ import annotations

from bgd.client.blocking.client import Client
from bgd.client.blocking.job import Job

__all__ = ["Client", "Job"]
