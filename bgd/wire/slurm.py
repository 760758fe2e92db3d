"""What Slurm's programs print: whole messages, times, and the refusals that waiting does not cure.

A refusal is for now unless it is one of the few below. A site refuses for many reasons that pass: limits of
an account, a QOS or a user, a partition that is down, maintenance, a policy of its own. If these failed jobs,
a full limit would fail all that wait.
"""

from __future__ import annotations

import math
import re

_MOST_WORDS = 2048  # characters of a message
_PREFIXES = re.compile(r"^(?:(?:sbatch|srun|squeue): )?(?:(?:error|fatal): )?")
_HINT = 'Try "sbatch --help" for more information'
# of sbatch about its options, and of Slurm's controller (slurm_errno.c). All are about the job itself.
_INCURABLE = re.compile(
    r"nvalid option|nrecognized option|requires an argument|doesn't allow an argument|is ambiguous|Invalid --"
    r"|nvalid numeric value|nvalid .*specifi(?:ed|cation)|specification invalid|--batch option is invalid"
    r"|No partition specified|not permitted to use this partition|nodes not in this partition"
    r"|configuration is not available|More processors requested|Memory required by task is not available"
    r"|Invalid account|Invalid or unknown association|Invalid generic resource"
    r"|time limit is invalid|Time limit specification required"
    r"|reservation is invalid|Access denied to requested reservation"
    r"|\b(?:Assoc|QOS)\w+(?:PerJob|NotSatisfied)"  # a limit that this job alone exceeds (job_state_reason.c)
)

_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d\d)")


def seconds_in(text: str) -> float:
    """Return the seconds of a time that squeue prints: infinite without a limit, 0 if a limit is exceeded."""
    if (parts := _TIME.fullmatch(text)) is None:
        return 0.0 if text == "INVALID" else math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return ((days * 24.0 + hours) * 60.0 + minutes) * 60.0 + seconds


def message_in(output: str) -> str:
    """Return all lines that a program of Slurm printed, without its name; only the ends of a very long text.

    A site's own words, of its job_submit plugin or wrapper, come before those of Slurm.
    """
    lines = (_PREFIXES.sub("", line.strip()) for line in output.splitlines())
    text = "; ".join(line for line in lines if line and not line.startswith(_HINT))
    half = _MOST_WORDS // 2
    return text if len(text) <= _MOST_WORDS else f"{text[:half]} ... {text[-half:]}"


def is_incurable(message: str) -> bool:
    """Return whether waiting will not help a job that was refused in these words."""
    return _INCURABLE.search(message) is not None
