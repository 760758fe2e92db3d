"""docs/notifications.md: the mail of the page arrives, and its tables name everything."""

from __future__ import annotations

import os
import re
from email import message_from_bytes, policy

import pytest

from bgd.core.notifications import CHOSEN
from tests.docs.pages import blocks, first_cells, page
from tests.support import wait_until

PAGE = page("docs/notifications.md")

# The schedule of the mail that the page shows
BACKUP = """
[schedules.nightly]
cron = "0 3 * * *"
command = ["{folder}/backup", "--all"]
retries = 1
retry_delay = 0
"""

PROGRAMS = {
    "backup": "echo 'copying /srv'\necho 'cannot write /backup: No space left on device'\nexit 3\n",
    # Stand in for a mail server: what is sent lies in one file each
    "sendmail": 'cat > "$HOME/mail.$$.part"\nmv "$HOME/mail.$$.part" "$HOME/mail.$$"\n',
}


# The first configuration of the page
pytestmark = pytest.mark.daemon(
    blocks(PAGE, "toml")[0] + BACKUP,
    {name: f"#!/bin/sh\n{text}" for name, text in PROGRAMS.items()},
    {"PATH": f"{{folder}}:{os.environ['PATH']}"},
)


@pytest.fixture
def mail(daemon):
    """Return a function that waits for the next mail and returns it."""

    def arrived():
        wait_until(lambda: [*daemon.folder.glob("mail.*[0-9]")])
        [path] = daemon.folder.glob("mail.*[0-9]")
        found = message_from_bytes(path.read_bytes(), policy=policy.default)
        path.unlink()
        return found

    return arrived


def test_the_mail_of_the_page_arrives(daemon, mail):
    daemon.bgctl("schedule", "run", "nightly")

    found = mail()

    shown = f"To: {found['To']}\nSubject: {found['Subject']}\n\n{found.get_content()}"
    shown = shown.replace(str(daemon.folder), "/usr/local/bin").strip()
    assert without_chance(shown) == without_chance(blocks(PAGE, "text")[0].strip())


def test_a_test_can_be_sent(daemon, mail):
    asked = daemon.bgctl("doctor", "--notify", "ops")

    assert "test of [notify.ops]" in mail()["Subject"]
    assert asked.returncode == 0, asked.stderr


def without_chance(text: str) -> str:
    """Return a mail with names in place of what differs each time."""
    for pattern, name in [
        (r"on \S+$", "on a host"),
        (r"on \S+\.$", "on a host."),
        (r"^when: .*", "when: a time"),
        (r"^(job: +|  bgctl (show|logs) )\d+$", r"\1 a job"),
    ]:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text


def test_the_page_lists_every_event():
    assert sorted(first_cells(PAGE, "event")) == sorted(CHOSEN)
