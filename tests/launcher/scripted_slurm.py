"""Slurm's programs as short scripts, with this machine as the only node, and without a controller.

While a file `pending` exists, new jobs wait, for the reason in it; one of number N begins if there is a file
`begun.N`. While a file `refusal` exists, sbatch prints it and fails. A file `limit` has the seconds of a job,
`drained` what sinfo prints, and `suspended` the number of a job that is.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from bgd.wire.launching import PilotStart, SlurmStart
from tests.launcher.host import SOURCE
from tests.support import wait_until

# runs the program of the step here and at once
SRUN = """#!/bin/sh
echo started >>{folder}/sruns
while [ ! -x "$1" ]; do shift; done
exec "$@"
"""
SQUEUE = """#!/bin/sh
echo started >>{folder}/squeues
[ ! -e {folder}/away ] || exit 1
for word; do case $word in --jobs=*) number=${{word#*=}} ;; esac; done
case "$*" in  # who asks knows that it has ended
*--states=all*)
    if [ -e {folder}/over.$number ]; then echo "TIMEOUT|n1"
    elif [ -e {folder}/pending.$number ]; then echo "CANCELLED|"
    else echo "FAILED|n1"; fi
    exit 0
    ;;
esac
for job in {folder}/jobs/*; do
    state=RUNNING reason=None limit=UNLIMITED left=UNLIMITED
    [ ! -e {folder}/pending.${{job##*/}} ] || {{ state=PENDING reason=$(cat {folder}/pending); }}
    [ "$(cat {folder}/suspended 2>/dev/null)" != "${{job##*/}}" ] || state=SUSPENDED
    if [ -e {folder}/limit ]; then
        limit=$(cat {folder}/limit)
        left=0:$(printf %02d $((limit - $(date +%s) + $(stat -c %Y $job)))) limit=0:$(printf %02d $limit)
        case $left in *-*) left=INVALID ;; esac
    fi
    read -r name pid conf <"$job" && [ "$conf" = "$SLURM_CONF" ] &&
        kill -0 "$pid" && echo "${{job##*/}}|$name|$state|main|$limit|$left|$reason"
done
exit 0
"""
# without --partition it would list those of all users
SINFO = """#!/bin/sh
echo started >>{folder}/sinfos
case "$*" in *--partition=main*) cat {folder}/drained 2>/dev/null ;; esac
exit 0
"""
# the job's session ends with a SIGTERM, as a pilot's script ignores it until its launcher has ended
SCANCEL = """#!/bin/sh
for number; do
    [ ! -e "{folder}/jobs/$number" ] || {{ read -r name pid _ <"{folder}/jobs/$number"; kill -TERM "-$pid"; }}
done
exit 0
"""
SBATCH = """#!/bin/sh
echo "$*" >>{folder}/sbatchs
if cat {folder}/refusal >&2 2>/dev/null; then exit 1; fi
for word; do
    case $word in
    --job-name=*) name=${{word#*=}} ;;
    --output=*) output=${{word#*=}} ;;
    esac
done
while [ "${{1#--}}" != "$1" ]; do shift; done
number=$(($(ls {folder}/jobs | wc -l) + 1))
export PYTHONPATH={source} SLURMD_NODENAME=n1 SLURM_CPUS_ON_NODE=2 SLURM_MEM_PER_NODE=1000
[ ! -e {folder}/pending ] || : >{folder}/pending.$number
export BEGUN={folder}/begun PENDING={folder}/pending NUMBER=$number OVER={folder}/over
LIMIT=$(cat {folder}/limit 2>/dev/null) && export LIMIT
setsid sh -c 'while [ -e $PENDING ] && [ ! -e $BEGUN.$NUMBER ]; do sleep 0.02; done
rm -f $PENDING.$NUMBER
[ -z "$LIMIT" ] || {{ sleep $LIMIT; kill -0 $$ && : >$OVER.$NUMBER && kill -TERM -$$; }} &
exec sh "$@"' sh "$@" </dev/null >"$output" 2>&1 &
echo "$name $! $SLURM_CONF" >{folder}/new
mv {folder}/new {folder}/jobs/$number  # tests read these files at any time
echo $number
"""


class ScriptedSlurm:
    """The scripts, and what a launch says of them.

    `pilot_start`: by a pilot. `full_pilot`: by a pilot that it fills. `own_pilot`: by one of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self.shared.mkdir(mode=0o700)
        (folder / "jobs").mkdir()
        scripts = {"srun": SRUN, "squeue": SQUEUE, "scancel": SCANCEL, "sbatch": SBATCH, "sinfo": SINFO}
        for name, script in scripts.items():
            (folder / name).write_text(script.format(folder=folder, python=sys.executable, source=SOURCE))
            (folder / name).chmod(0o700)
        of_pilots = PilotStart(executor="pilots", nodes=1, options=[], keep_idle=600.0, cpus=1, memory=1)
        self.pilot_start = self._start(of_pilots)
        self.full_pilot = self._start(replace(of_pilots, cpus=2))
        self.own_pilot = self._start(replace(of_pilots, alone=True))

    def _start(self, pilot: PilotStart) -> SlurmStart:
        return SlurmStart(
            folder=str(self.shared),
            python=sys.executable,
            requests_per_second=1000.0,
            variables={"PATH": f"{self.folder}:{os.defpath}"},
            pilot=pilot,
        )

    def count(self, program: str) -> int:
        """Return how many of a program have started."""
        path = self.folder / f"{program}s"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def pilots(self) -> list[int]:
        """The scripts of pilots that run; each leads a session."""
        pids = [int(each.read_text().split()[1]) for each in sorted((self.folder / "jobs").iterdir())]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def end(self) -> None:
        """End all pilots, and so what they run."""
        for pid in self.pilots:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
        wait_until(lambda: not self.pilots)
