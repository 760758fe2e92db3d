"""Functions of an application that have schedules."""

from __future__ import annotations

import bgd
from tests.functions.tasks import add, square

__all__ = ["Report", "add", "clean_up", "every_day", "square"]


@bgd.job(cron="0 3 * * *", timezone="Europe/Paris", overlap="queue", late_after="10m", retries=2, jitter=0.5)
def clean_up(limit: int = 10) -> int:
    return limit


@bgd.job(calendar="Mon..Fri 09:00", name="every-day", missed="latest", missed_within=3600, excluded=["12-25"])
def every_day() -> None: ...


class Report:
    @classmethod
    @bgd.job(every="1d")
    def write(cls) -> str:
        return cls.__name__

    @bgd.job
    def never(self) -> None: ...
