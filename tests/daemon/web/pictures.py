"""Take the screenshots in docs/pictures: a real browser shows the pages of a private daemon at work.

`make pictures` runs this. The pictures look best if the fonts Inter and JetBrains Mono are installed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from functools import partial
from itertools import product
from math import pi, sin
from pathlib import Path
from typing import Literal

import msgspec
from PIL import Image

from bgd import Client, Job, JobSpec
from bgd.core.job import Outcome, State
from bgd.daemon.storage.activity import NAME, QUARTER, QUEUE, Counts, bucket_of
from tests.daemon.web.chromium import chromium
from tests.support import ROOT, Daemon, wait_until

PICTURES = ROOT / "docs/pictures"
SERVICES = "app.services"

CONFIGURATION = f"""\
[daemon]
slots = 3
[security]
allowed_classes = ["{SERVICES}.*"]
[python]
path = ["~"]
[queues.mail]
slots = 1
rate = "100/1h"
[resources]
gpu = ["0", "1"]
[schedules.nightly-archive]
cron = "30 2 * * *"
target = "{SERVICES}:Archive.compress"
args = ["photos", "photos"]
tags = ["nightly"]
[schedules.newsletter]
cron = "0 7 * * mon"
command = ["sh", "newsletter.sh", "weekly"]
queue = "mail"
[schedules.heartbeat]
every = "15m"
command = ["true"]
"""

OTHERS = {"overview": "/overview", "queues": "/queues", "search": "/search?text=ends+in"}

PROGRAMS = {
    "thumbnails.sh": r"""
for photo in 001 002 003 004; do
    printf "\033[32mdone\033[0m   photos/$photo.jpg  \033[2m1280 x 853\033[0m\n"
done
if test $BGD_ATTEMPT = 1; then
    printf "\033[1;31merror\033[0m  photos/005.jpg  \033[33mends in the middle: still being copied?\033[0m\n"
    exit 3
fi
printf "\033[32mdone\033[0m   photos/005.jpg  \033[2m1280 x 720\033[0m\n"
""",
    "newsletter.sh": "echo 214 addresses; sleep 1",
    "import.sh": "read line <gate",
    "invoices.sh": "read line <gate",
    "stock.sh": "sleep 60",
}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="shop-") as folder:
        daemon = Daemon(Path(folder))
        daemon.configure(CONFIGURATION)
        shutil.copytree(ROOT / "examples/app", daemon.folder / "app")
        shutil.copytree(ROOT / "docs", daemon.folder / "photos")
        os.mkfifo(daemon.folder / "gate")
        for name, text in PROGRAMS.items():
            (daemon.folder / name).write_text(text)
        daemon.start()
        daemon.stop()
        remember_a_day(daemon.state_dir / "bgd.db")
        daemon.start()
        try:
            with daemon.client() as client:
                retried = work_through_a_morning(client, folder)
                take(client, addresses(retried.id))
        finally:
            daemon.stop()


def remember_a_day(database: Path) -> None:
    """Write what jobs of these names would have left behind in a day, busier in its middle."""
    now = int(time.time()) // QUARTER * QUARTER
    with closing(sqlite3.connect(database)) as db, db:
        for place, (name, queue, number, seconds) in product(range(1, 96), YESTERDAY):
            wave = sin(place / 96 * pi) * (1 + sin(place * len(name)) / 3)
            jobs, failed = round(number * wave), int(place % 11 == len(name) % 11)
            wait, run = bucket_of(0.05 + 2 * wave**4), bucket_of(seconds * (1 + wave))
            outcomes = {Outcome.SUCCEEDED: jobs, Outcome.EXIT: failed}
            counts = Counts(
                started=jobs + failed,
                slot_seconds=jobs * seconds,
                outcomes=outcomes,
                finished={State.SUCCEEDED: jobs, State.FAILED: failed},
                waits={wait: jobs, wait + 6: failed},
                runs={run: jobs, run + 5: failed},
            )
            for kind, subject in ((NAME, name), (QUEUE, queue)):
                row = (QUARTER, now - place * QUARTER, kind, subject, msgspec.msgpack.encode(counts))
                db.execute("INSERT OR REPLACE INTO activity VALUES (?, ?, ?, ?, ?)", row)


# Names and queues of jobs, how many in a quarter of an hour, and the seconds that each took
YESTERDAY = (
    ("thumbnails", "default", 40, 3.0),
    ("newsletter", "mail", 12, 1.5),
    ("archive", "nightly", 3, 90.0),
    ("stock", "shop", 6, 20.0),
)


def addresses(job_id: int) -> dict[str, str]:
    """Return what follows /job-logs in the address of each page, by the name of its picture."""
    return {
        "overview": "/overview",
        "charts": "/charts?by=name",
        "jobs": "",
        "job": f"/{job_id}",
        "new": f"/new?job={job_id}",
        "log": f"/{job_id}/1/view",
        "queues": "/queues",
        "batches": "/batches",
        "batch": "/batches/1",
        "schedules": "/schedules",
        "schedule": "/schedules/nightly-archive",
        "search": "/search?text=photos",
    }


def work_through_a_morning(client: Client, folder: str) -> Job:
    """Queue jobs that end or wait in many ways; return one that was tried twice."""
    for _ in range(4):
        client.schedules.run("nightly-archive").wait()
    make_batches(client)
    submit = partial(client.submit, cwd=folder)
    done = [
        client.call(f"{SERVICES}:Archive.compress", ["photos", "photos"], name="archive", tags=["nightly"]),
        client.call(f"{SERVICES}:Checksums.of_files", ["photos"], name="checksums", tags=["nightly"]),
        client.call(f"{SERVICES}:LogReport.top_words", ["/etc/services", 3], priority=5),
        submit(["sh", "newsletter.sh", "autumn"], name="newsletter", queue="mail"),
        submit(["sh", "stock.sh", "--all"], name="stock", timeout=1.5),
        submit(["sh", "thumbnails.sh", "photos"], name="thumbnails", retries=2, retry_delay=1),
        client.call(f"{SERVICES}:Flaky.fetch", ["rates"], name="exchange rates", retry_delay=0.5),
        submit(["gzip", "--test", "photos.tar.gz"]),
    ]
    client.schedules.run("nightly-archive")
    client.wait([job.id for job in done])
    waiting = client.call(f"{SERVICES}:Flaky.fetch", ["orders"], name="orders", priority=10, retry_delay=120)
    wait_until(lambda: client.job(waiting.id).state == "scheduled")
    client.cancel([submit(["make", "--jobs=2", "site"], name="website", delay=3600).id])
    submit(["sh", "import.sh", "catalogue.csv"], name="catalogue", resources={"gpu": 1})
    started = submit(["sh", "invoices.sh", "--month=10"], name="invoices", queue="mail")
    submit(["sh", "newsletter.sh", "winter"], name="newsletter", queue="mail")
    client.submit_many([JobSpec(argv=("sh", "import.sh", "prices.csv"), name="prices", after=(started.id,))])
    submit(
        ["rsync", "--archive", "photos/", "backup:photos/"],
        check=False,
        priority=-10,
        delay=5400,
        name="offsite",
    )
    wait_until(lambda: client.job(started.id).state == "running")
    return done[5]


def make_batches(client: Client) -> None:
    """Make a batch that has ended with failures, and one that is still running."""
    codes = [0] * 40 + [3] * 4
    follow_ups = {"then": ["true"], "catch": ["true"], "finally_": ["true"]}
    ended = client.batch([["sh", "-c", f"exit {code}"] for code in codes], "thumbnails", **follow_ups)
    ended.wait()
    goes_on = client.batch(
        [{"argv": ["true"], "hold": number > 11} for number in range(30)], "invoices of May"
    )
    wait_until(lambda: goes_on.refresh().counts["succeeded"] == 12)


WIDTHS = {1920: 1080, 390: 844}  # of a large screen and of a phone, with the height of what is shown
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
COLOURS = 96  # of a picture: they look the same as with all, and take a third


def take(client: Client, pages: dict[str, str]) -> None:
    """Take pictures of each page: light and dark, wide and narrow."""
    with chromium() as browser:
        page = browser.new_page()
        page.goto(client.login_link())
        page.wait_for_url("**/job-logs")
        origin = page.url
        for name, path in pages.items():
            for (width, height), scheme in product(WIDTHS.items(), SCHEMES):
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=scheme)
                page.goto(f"{origin}{path}")
                picture = PICTURES / picture_name(name, width, scheme)
                page.screenshot(path=picture)
                with Image.open(picture) as taken:
                    taken.quantize(COLOURS).save(picture, optimize=True)


def picture_name(name: str, width: int, scheme: str) -> str:
    return f"{name}-{width}-{scheme}.png"


if __name__ == "__main__":
    main()
