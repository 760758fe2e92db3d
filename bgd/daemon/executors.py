"""Executors: which one runs a job, whether it can, and what the launcher must know of it."""

from __future__ import annotations

from msgspec.structs import replace

from bgd.config import Config, ExecutorConfig
from bgd.core.spec import DEFAULT_QUEUE, LOCAL, ExecutorKind, JobSpec
from bgd.daemon.access import config_file
from bgd.errors import Refused, nearest
from bgd.wire.launching import Launch, Limits, Place, SlurmStart


def check_executor(spec: JobSpec, queue: str | None, config: Config) -> None:
    """Check that there is an executor for a job in this queue (None: the default one) that can run it.

    Raises:
        Refused: there is none, or it cannot do what the job asks for.
    """
    name = _name_of(spec, queue, config)
    kind = ExecutorKind.LOCAL if name == LOCAL else config.executors[name].kind
    if kind is ExecutorKind.SLURM:
        found = next((each for each in _NOT_ON_SLURM if getattr(spec, each) not in {None, False}), None)
        if found is not None:
            hint = f": {instead} is for Slurm" if (instead := _INSTEAD.get(found)) else ""
            raise Refused(
                f"{found} is for jobs of this machine, and executor {name} runs them on Slurm{hint}"
            )
    else:
        found = next((each for each in _ONLY_ON_SLURM if getattr(spec, each) is not None), None)
        if found is not None:
            raise Refused(f"{found} is for jobs on Slurm, and executor {name} runs them on this machine")


def place_of(spec: JobSpec, queue: str, config: Config) -> Place | None:
    """Return the executor of a job that was checked, unless it is this machine, as it is."""
    name = _name_of(spec, queue, config)
    if name == LOCAL or (kind := config.executors[name].kind) is ExecutorKind.LOCAL:
        return None
    return Place(executor=name, kind=kind)


def on_executor(launch: Launch, spec: JobSpec, executor: ExecutorConfig) -> Launch:
    """Return the launch as this executor needs it."""
    match executor.kind:
        case ExecutorKind.LOCAL:
            return launch
        case ExecutorKind.PREFIX:  # a process that a warm worker forks has nothing in front
            return replace(launch, argv=[*executor.argv, *launch.argv], warm=None)
        case ExecutorKind.SLURM:
            slurm = SlurmStart(
                folder=executor.folder,
                python=executor.python,
                options=srun_options(spec, executor),
                conf=executor.conf,
                requests_per_second=executor.requests_per_second,
            )
            return replace(launch, slurm=slurm, warm=None, own_group=False)


def srun_options(spec: JobSpec, executor: ExecutorConfig) -> list[str]:
    """Return what tells srun where and with how much to run a job."""
    named = {
        "partition": executor.partition,
        "account": executor.account,
        "qos": executor.qos,
        "constraint": executor.constraint,
        "cpus-per-task": spec.cpus or 1,
        "mem": f"{-(-(spec.memory or executor.memory) // 1024)}K",  # without it a job may take the whole node
        "gpus": spec.gpus,
    }
    return [*executor.options, *(f"--{name}={value}" for name, value in named.items() if value)]


def _name_of(spec: JobSpec, queue: str | None, config: Config) -> str:
    if spec.executor is None:
        bound = config.queues.get(queue or DEFAULT_QUEUE)
        return LOCAL if bound is None else bound.executor
    if spec.executor != LOCAL and spec.executor not in config.executors:
        known = nearest(spec.executor, [LOCAL, *config.executors])
        raise Refused(f"there is no [executors.{spec.executor}] in {config_file(config)}; {known}")
    return spec.executor


_ONLY_ON_SLURM = ("cpus", "memory", "gpus")
_NOT_ON_SLURM = ("pty", "keep_leftovers", *Limits.__struct_fields__)
_INSTEAD = {"memory_max": "memory", "cpu_max": "cpus"}
