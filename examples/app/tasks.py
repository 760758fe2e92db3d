"""Functions as jobs: each names its own options, and can still be called directly."""

from pathlib import Path

import bgd


@bgd.job(queue="mail", retries=5, retry_delay=60.0)
def send_letter(address: str, *, copies: int = 1) -> str:
    print(f"to {address}")  # noqa: T201 - goes to the log
    return f"{copies} for {address}"


@bgd.job
def area(width: float, height: float) -> float:
    return width * height


@bgd.job
def report(cause_id: int, cause_outcome: str, cause_error: str | None, cause_output: str) -> str:
    """Say how another job has ended, as its on_success or on_failure."""
    print(cause_output)  # noqa: T201 - goes to the log
    return f"job {cause_id}: {cause_error or cause_outcome}"


@bgd.job(cron="30 2 * * *", timezone="Europe/Paris", late_after="10m")
def count_letters(folder: str = "/var/mail") -> int:
    return sum(1 for _ in Path(folder).glob("*"))
