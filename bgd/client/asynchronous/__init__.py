"""The client for programs that run on an event loop.

What blocks has its twin in bgd.client.blocking: the socket and the runtime are written there by hand, all
else is made from these files by tests/client/blocking.py.
"""

from __future__ import annotations

from bgd.client.asynchronous.client import AsyncClient
from bgd.client.asynchronous.job import AsyncJob

__all__ = ["AsyncClient", "AsyncJob"]
