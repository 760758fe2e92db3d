"""What Slurm's programs print. The refusals are those of slurm_errno.c and job_state_reason.c."""

from __future__ import annotations

from math import inf

import pytest

from bgd.wire.slurm import is_incurable, message_in, seconds_in

FAILED = "sbatch: error: Batch job submission failed: {}\n"
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
FOR_GOOD = [
    "Invalid partition name specified",
    "No partition specified or system default partition",
    "User's group not permitted to use this partition",
    "Requested nodes not in this partition",
    "More processors requested than permitted",
    "Node count specification invalid",
    "Task count specification invalid",
    "CPU count specification invalid",
    "Requested node configuration is not available",
    "Invalid node name specified",
    "Invalid feature specification",
    "Invalid preferred feature specification",
    "Memory required by task is not available",
    "Invalid account or account/partition combination specified",
    "Invalid or unknown association",
    "Invalid qos specification",
    "Invalid wckey specification",
    "Invalid license specification",
    "Requested time limit is invalid (missing or exceeds some limit)",
    "Time limit specification required, but not provided",
    "Invalid time specified",
    "Access denied to requested reservation",
    "Requested reservation is invalid",
    "Invalid generic resource (gres) specification",
    "Invalid GRES specification (with and without type identification)",
    "Invalid Trackable RESource (TRES) specification",
    "Job --batch option is invalid or not a subset of --constraint",
    "Invalid --nice value",
]
FOR_NOW = [
    "Access/permission denied",
    "Authentication credential expired",
    "Burst Buffer resource limit exceeded",
    "Communication connection failure",
    "Controller is in standby mode, try a different controller",
    "I/O error writing script/environment to file",
    "Immediate execution impossible, insufficient priority",
    "Invalid authentication credential",
    "Invalid job credential",
    "Invalid user id",
    "Job can not start due to maintenance reservation.",
    "Licenses currently unavailable",
    "Lua script loading failed due to invalid syntax",
    "MaxJobCount limit reached",
    "Max powered up nodes reached",
    "Partition in DOWN state",
    "Protocol authentication error",
    "Rate limit exceeded, please retry later",
    "Requested account has breached requested QOS usage threshold",
    "Requested nodes are busy",
    "Requested operation is presently disabled",
    "Requested partition configuration not available now",
    "Requested reservation is in use",
    "Requested reservation not usable now",
    "Required node not available (down, drained or reserved)",
    "Required partition not available (inactive or drain)",
    "Slurm backup controller in standby mode",
    "Slurm internal error, contact system administrator",
    "Socket timed out on send/recv operation",
    "System submissions disabled",
    "Unable to connect to database",
    "Unable to contact slurm controller (connect failure)",
    "Unspecified error",
    "Zero Bytes were transmitted or received",
    POLICY,
]
LIMITS = [
    *(
        "AssocGrpSubmitJobsLimit",
        "AssocMaxSubmitJobLimit",
        "QOSMaxSubmitJobPerUserLimit",
        "QOSGrpSubmitJobsLimit",
    ),
    *(
        "QOSMaxJobsPerUserLimit",
        "AssocGrpCpuLimit",
        "QOSMaxCpuPerUserLimit",
        "AssocMaxJobsLimit",
        "QOSGrpGRES",
    ),
]
LIMITS_OF_A_JOB = [
    *(
        "AssocMaxCpuPerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSMaxNodePerJobLimit",
        "QOSMinCpuNotSatisfied",
    ),
]


@pytest.mark.parametrize("text", FOR_GOOD)
def test_what_waiting_cannot_cure_is_a_refusal_for_good(text):
    assert is_incurable(message_in(FAILED.format(text)))


@pytest.mark.parametrize("text", FOR_NOW)
def test_every_other_refusal_is_for_now(text):
    assert not is_incurable(message_in(FAILED.format(text)))


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_limit_is_a_refusal_for_now_and_is_named(limit):
    message = message_in(f"sbatch: error: {limit}\n{FAILED.format(POLICY)}")

    assert message == f"{limit}; Batch job submission failed: {POLICY}"
    assert not is_incurable(message)


@pytest.mark.parametrize("limit", LIMITS_OF_A_JOB)
def test_a_limit_that_one_job_exceeds_is_a_refusal_for_good(limit):
    assert is_incurable(message_in(f"sbatch: error: {limit}\n{FAILED.format(POLICY)}"))


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: unrecognized option '--nonsense'\nTry \"sbatch --help\" for more information\n",
        "sbatch: invalid option -- 'Y'\n",
        "sbatch: option '--mem' requires an argument\n",
        "sbatch: error: Invalid --time specification\n",
        'sbatch: error: Invalid numeric value "x" for --ntasks.\n',
        "sbatch: option '--no' is ambiguous; possibilities: '--no-kill' '--nodes'\n",
        "sbatch: option '--exclusive' doesn't allow an argument\n",
    ],
)
def test_an_option_that_sbatch_does_not_take_is_a_refusal_for_good(text):
    assert is_incurable(message_in(text))


def test_all_lines_of_a_message_are_kept_in_their_order():
    output = (
        "sbatch: error: site policy: partition strict needs --time (see https://hpc.example/policy#time)\n"
        "\nsbatch: error: Batch job submission failed: Requested time limit is invalid\n"
    )

    assert message_in(output) == (
        "site policy: partition strict needs --time (see https://hpc.example/policy#time); "
        "Batch job submission failed: Requested time limit is invalid"
    )


def test_a_very_long_message_keeps_its_beginning_and_its_end():
    message = message_in("site policy\n" + "x" * 5000 + "\nlast words\n")

    assert len(message) == 2048 + len(" ... ")
    assert (message[:11], message[-10:]) == ("site policy", "last words")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:05", 5.0),
        ("1:57", 117.0),
        ("2:00:01", 7201.0),
        ("1-02:03:04", 93784.0),
        ("UNLIMITED", inf),
        ("NOT_SET", inf),
        ("INVALID", 0.0),  # in excess of the limit
    ],
)
def test_times_of_squeue_are_seconds(text, seconds):
    assert seconds_in(text) == seconds
