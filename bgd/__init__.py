"""bgd runs jobs in the background of one Linux machine. These are its public names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgd.client import Client, Job, run_background_job
    from bgd.client.asynchronous import AsyncClient, AsyncJob
    from bgd.client.default import using
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

__version__ = "0.1.0"

__all__ = [
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

_HOME = {
    "AsyncClient": "bgd.client.asynchronous",
    "AsyncJob": "bgd.client.asynchronous",
    "Client": "bgd.client",
    "Job": "bgd.client",
    "run_background_job": "bgd.client",
    "using": "bgd.client.default",
    "job": "bgd.jobfunction",
    "JobFunction": "bgd.jobfunction",
    "JobSpec": "bgd.core.spec",
    "Outcome": "bgd.core.job",
    "State": "bgd.core.job",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the launcher must not carry the client's modules."""
    if name not in __all__:
        raise AttributeError(f"module 'bgd' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME.get(name, "bgd.errors")), name)
