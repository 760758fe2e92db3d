"""The launcher: a small process, the parent of every job."""

import sys

# asyncio imports OpenSSL if it can: a seventh of this process's memory, and useless for a Unix socket
sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # None makes imports of it fail
