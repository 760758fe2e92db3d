"""bgd runs jobs in the background of one Linux machine. This module has its public names."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from bgd.client.async_.client import AsyncClient
    from bgd.client.async_.job import AsyncJob
    from bgd.client.background import run_background_job, using
    from bgd.client.blocking.client import Client
    from bgd.client.blocking.job import Job
    from bgd.client.specs import PREVIOUS
    from bgd.core.job import Outcome, State
    from bgd.core.spec import JobSpec
    from bgd.errors import (
        BgdError,
        ConfigError,
        DaemonUnreachable,
        JobFailed,
        NoSuchJob,
        NotAllowed,
        ProtocolError,
        Refused,
    )
    from bgd.jobfunction import JobFunction, job

__version__ = "1.0.0"

__all__ = [
    "PREVIOUS",
    "AsyncClient",
    "AsyncJob",
    "BgdError",
    "Client",
    "ConfigError",
    "DaemonUnreachable",
    "Job",
    "JobFailed",
    "JobFunction",
    "JobSpec",
    "NoSuchJob",
    "NotAllowed",
    "Outcome",
    "ProtocolError",
    "Refused",
    "State",
    "__version__",
    "job",
    "run_background_job",
    "using",
]

_MODULES = {
    "PREVIOUS": "bgd.client.specs",
    "AsyncClient": "bgd.client.async_.client",
    "AsyncJob": "bgd.client.async_.job",
    "Client": "bgd.client.blocking.client",
    "Job": "bgd.client.blocking.job",
    "run_background_job": "bgd.client.background",
    "using": "bgd.client.background",
    "job": "bgd.jobfunction",
    "JobFunction": "bgd.jobfunction",
    "JobSpec": "bgd.core.spec",
    "Outcome": "bgd.core.job",
    "State": "bgd.core.job",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, because the launcher must not load the client."""
    if name not in __all__:
        raise AttributeError(f"module 'bgd' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - `bgctl submit PROGRAM` hardly ever gets here

    return getattr(importlib.import_module(_MODULES.get(name, "bgd.errors")), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted(__all__)
