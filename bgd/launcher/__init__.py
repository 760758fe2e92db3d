"""The launcher: a small process of its own, parent of every job."""

import sys

# asyncio takes OpenSSL along where it finds it: a seventh of this process's memory, for a Unix socket
sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # None is what import takes for "not there"
