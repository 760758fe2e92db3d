"""The client for programs that run on an event loop."""

from __future__ import annotations

from bgd.client.async_.client import AsyncClient
from bgd.client.async_.job import AsyncJob

__all__ = ["AsyncClient", "AsyncJob"]
