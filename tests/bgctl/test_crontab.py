from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgctl.crontab import (
    MAX_COMMAND,
    MAX_CRONTAB,
    MAX_LINES,
    SPOOL,
    Crontab,
    Machine,
    has_user_column,
    pam_variables,
    parse_crontab,
)

ENV = {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "HOME": "/home/ann", "LOGNAME": "ann"}


FOLDERS = {"/home/ann", "/home/www-data", "/root", "/srv/data", SPOOL}
USERS = {"ann", "root", "www-data", "backup"}
PROGRAMS = {"backup"}


def read(
    text: str, *, user: str = "ann", has_users: bool = False, pam: Mapping[str, str] | None = None
) -> Crontab:
    machine = Machine(
        user=user,
        home="/root" if user == "root" else f"/home/{user}",
        has_users=has_users,
        is_user=lambda word, _path: word in USERS - PROGRAMS,
        is_folder=FOLDERS.__contains__,
        pam=pam or {},
    )
    return parse_crontab(text, machine)


def notes(crontab: Crontab) -> list[str]:
    return [str(note) for note in crontab.notes]


def schedules(crontab: Crontab) -> list[tuple[str, str, str]]:
    return [(each.name, each.cron, each.argv[2]) for each in crontab.definitions]


MAIL = "cron mails what commands print to ann; bgd keeps it: `bgctl logs NAME`"

BACKUP = """\
# m h  dom mon dow   command
MAILTO=""
30 2 * * * /usr/local/bin/backup --all
0 4 * * sun /usr/local/bin/backup --full > /var/log/full.log 2>&1
"""

WEB = """\
MAILTO=ops@example.org
PATH=/home/ann/bin:/usr/bin:/bin
*/5 * * * * cd /srv/app && python manage.py send_mail
@daily cd /srv/app && venv/bin/python manage.py clearsessions
@hourly curl -fsS https://example.org/ping >/dev/null
"""

LARAVEL = """\
MAILTO=
* * * * * cd /var/www/shop && php artisan schedule:run >> /dev/null 2>&1
"""

PERCENT = r"""
MAILTO=""
0 0 * * * pg_dump shop > /backup/shop-$(date +\%F).sql
0 8 1 * * mail -s "Hello\% there" ann@example.org%Hi Ann,%%100\% done.%
1 1 * * * printf 'a\\b\n'
"""

SHELLS = """\
SHELL=/bin/bash
BASH_ENV = "/home/ann/.bashrc"
GREETING = 'hello # world'
MAILTO=""
15 10 * * 1-5 [[ -f ~/go ]] && exec ~/bin/report.sh
SHELL=/bin/sh
HOME=/srv/data
15 11 * * 1-5 ./report.sh
"""

CRONIE = """\
CRON_TZ=Europe/Paris
RANDOM_DELAY=30
MAILTO=""
0~59 3 * * * /usr/bin/certbot renew -q
"""

BOOT = """\
MAILTO=""
@reboot sleep 30; /home/ann/bin/tunnel
@reboot /usr/bin/ssh-agent -D
@Reboot /home/ann/bin/old
"""

MISTAKES = """\
0 3 * * /usr/local/bin/four-fields
*/5 * * * * *
61 * * * * /bin/late
*5 * * * * /bin/star-five
0 22-2 * * * /bin/night
0 0 L * * /bin/last-day
LOGNAME=bob
10 3 * * * /usr/bin/good
"""

WINDOWS = "0 3 * * * /usr/bin/sync-photos\r\n0 4 * * * /usr/bin/sync-photos"

LOCKS = """\
MAILTO=""
0,30 8-17 * * mon-fri flock -n /tmp/sync.lock /usr/bin/rsync -a /srv/ backup:/srv/
0 1 * * * test -x /usr/sbin/anacron || ( cd / && run-parts /etc/cron.daily )
45 3 1,15 * fri nice -n 19 ionice -c3 /opt/tools/report.py --week
0 5 * * * A=1 B=2 /opt/tools/report.py --day
"""

SYSTEM = """\
SHELL=/bin/sh
PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin

17 *	* * *	root	cd / && run-parts --report /etc/cron.hourly
25 6	* * *	root	test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }
*/10 * * * * www-data /usr/bin/php /srv/cloud/cron.php
@reboot root /usr/local/sbin/firewall
5 5 * * * root
"""

ALL = [BACKUP, WEB, LARAVEL, PERCENT, SHELLS, CRONIE, BOOT, MISTAKES, WINDOWS, LOCKS]


def test_a_backup_is_taken_over_without_a_word():
    crontab = read(BACKUP)

    assert notes(crontab) == []
    assert schedules(crontab) == [
        ("backup", "30 2 * * *", "/usr/local/bin/backup --all"),
        ("backup-4", "0 4 * * sun", "/usr/local/bin/backup --full > /var/log/full.log 2>&1"),
    ]
    first = crontab.definitions[0]
    assert (first.line, first.argv[:2], first.cwd, first.input) == (3, ("/bin/sh", "-c"), "/home/ann", None)
    assert (first.env, first.mail_to, first.overlap) == (ENV | {"MAILTO": ""}, "", "allow")


def test_mail_to_somebody_becomes_a_hint():
    crontab = read(WEB)

    (note,) = notes(crontab)
    assert note.startswith(
        "line 1: MAILTO=ops@example.org: bgd keeps what commands print (`bgctl logs NAME`), and"
    )
    assert [each[:2] for each in schedules(crontab)] == [
        ("app", "*/5 * * * *"),
        ("app-4", "@daily"),
        ("curl", "@hourly"),
    ]
    assert {each.mail_to for each in crontab.definitions} == {"ops@example.org"}
    assert crontab.definitions[0].env["PATH"] == "/home/ann/bin:/usr/bin:/bin"


def test_a_line_for_every_minute_is_taken_over():
    assert schedules(read(LARAVEL)) == [
        ("shop", "* * * * *", "cd /var/www/shop && php artisan schedule:run >> /dev/null 2>&1")
    ]


def test_a_percent_sign_ends_the_command_and_begins_its_input():
    dump, mail, printf = read(PERCENT).definitions

    assert (dump.argv[2], dump.input) == ("pg_dump shop > /backup/shop-$(date +%F).sql", None)
    assert mail.argv[2] == 'mail -s "Hello% there" ann@example.org'
    assert mail.input == b"Hi Ann,\n\n100% done.\n"
    assert (printf.argv[2], printf.input) == (r"printf 'a\b\n'", None)


@pytest.mark.parametrize(
    ("line", "command", "given"),
    [
        ("cat%", "cat", None),
        ("cat%%", "cat", b"\n"),
        ("cat%a", "cat", b"a\n"),
        ("cat%a%", "cat", b"a\n"),
        ("cat%a%%b", "cat", b"a\n\nb\n"),
        (r"cat\\%a\\b\%", "cat\\", b"a\\\\b%\n"),
        ("cat\\", "cat\\", None),
        (r"a\nb\%c", r"a\nb%c", None),
        ("caf\udce9%\udce9", "caf\udce9", b"\xe9\n"),
    ],
)
def test_backslashes_and_percent_signs_mean_what_they_mean_in_cron(line, command, given):
    (definition,) = read(f"@daily {line}\n").definitions

    assert (definition.argv[2], definition.input) == (command, given)


def test_variables_hold_for_the_lines_below():
    bash, sh = read(SHELLS).definitions

    assert (bash.argv[0], bash.cwd) == ("/bin/bash", "/home/ann")
    assert bash.env["BASH_ENV"] == "/home/ann/.bashrc"
    assert bash.env["GREETING"] == "hello # world"
    assert (sh.argv[0], sh.cwd, sh.env["HOME"]) == ("/bin/sh", "/srv/data", "/srv/data")
    assert [bash.name, sh.name] == ["go", "report.sh"]
    assert notes(read(SHELLS)) == []


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("A=b=c", "A", "b=c"),
        ("A =  b c  ", "A", "b c"),
        ("A = 'b  '", "A", "b"),
        ('A = "b \t" ', "A", "b"),
        ("A = ' '", "A", ""),
        ("'A B'='  c'", "A B", "  c"),
        ('"A"=""', "A", ""),
        ("A=", "A", ""),
        ("A=$HOME # x", "A", "$HOME # x"),
        ("A=it's", "A", "it's"),
    ],
)
def test_variables_are_read_as_by_cron(line, name, value):
    crontab = read(f"{line}\nMAILTO=\n@daily true\n")

    assert notes(crontab) == []
    assert crontab.definitions[0].env[name] == value


@pytest.mark.parametrize("line", ["A='x' y", "A='x", "A B=c", "=x"])
def test_what_is_neither_a_variable_nor_a_time_gets_a_note(line):
    assert notes(read(f"{line}\n"))[0].startswith("line 1: not imported: ")


def test_settings_of_cronie_become_hints():
    crontab = read(CRONIE)

    zone, delay, random = notes(crontab)
    assert zone.startswith("line 1: CRON_TZ=Europe/Paris only goes into the environment, as in Debian's cron")
    assert "add timezone = 'Europe/Paris' to each schedule" in zone
    assert delay.startswith("line 2: RANDOM_DELAY=30 only goes into the environment")
    assert "add jitter = '30m' to each schedule" in delay
    assert random.startswith(
        "line 4: '0~59 3 * * *': the random value stays the same for this machine and schedule"
    )
    assert "Debian's cron reads A~B as A" in random
    assert schedules(crontab) == [("certbot", "0~59 3 * * *", "/usr/bin/certbot renew -q")]


def test_starts_of_the_machine_are_taken_over():
    crontab = read(BOOT)

    assert [each[:2] for each in schedules(crontab)] == [("sleep", "@reboot"), ("ssh-agent", "@reboot")]
    assert len(notes(crontab)) == 1
    assert "line 4: not imported: '@Reboot' is not a name that cron knows" in notes(crontab)[0]


def test_each_mistake_is_named_and_the_rest_is_taken_over():
    crontab = read(MISTAKES)

    assert schedules(crontab) == [("good", "10 3 * * *", "/usr/bin/good")]
    assert notes(crontab)[0] == MAIL
    found = notes(crontab)
    for number, words in {
        1: "day of week '/usr/local/bin/four-fields'",
        2: "'*/5 * * * * *' has six fields: Debian's cron has no seconds and no years",
        3: "minute '61' is out of range",
        4: "minute '*5' goes on after '*', which cron ignores: write *",
        5: "hour '22-2' ends before it begins",
        6: "day of month 'L' is out of range",
    }.items():
        assert any(note.startswith(f"line {number}: not imported: ") and words in note for note in found), (
            number
        )
    assert "line 7: LOGNAME=bob has no effect: it stays ann, as in cron" in found
    assert [note.line for note in crontab.notes if note.is_left_out] == [1, 2, 3, 4, 5, 6]


def test_a_file_that_cron_ignores_is_read_all_the_same():
    crontab = read(WINDOWS)

    assert notes(crontab) == [
        MAIL,
        "lines have Windows line ends, which cron passes to the commands; bgd removes them",
        "line 2: there is no newline at the end, so Debian's cron ignores the whole file; bgd reads it",
    ]
    assert schedules(crontab) == [
        ("sync-photos", "0 3 * * *", "/usr/bin/sync-photos"),
        ("sync-photos-2", "0 4 * * *", "/usr/bin/sync-photos"),
    ]


def test_names_are_those_of_what_does_the_work():
    assert [each[0] for each in schedules(read(LOCKS))] == [
        "sync.lock",
        "anacron",
        "report.py",
        "report.py-5",
    ]


def test_of_a_system_crontab_only_the_lines_of_the_user_are_taken_over():
    crontab = read(SYSTEM, user="root", has_users=True)

    assert [each[:2] for each in schedules(crontab)] == [
        ("run-parts", "17 * * * *".replace(" * * * *", " *\t* * *")),
        ("anacron", "25 6\t* * *"),
        ("firewall", "@reboot"),
    ]
    assert crontab.definitions[0].cwd == "/root"
    assert notes(crontab)[1:] == [
        "line 6: not imported: it runs as www-data; import it as that user",
        "line 8: not imported: there is no command, so cron would run an empty one: add it after the time",
    ]
    others = read(SYSTEM, user="www-data", has_users=True)
    assert [each[0] for each in schedules(others)] == ["cron.php"]


def test_a_line_of_a_system_crontab_is_known_by_its_user_wherever_the_file_is():
    crontab = read(SYSTEM, user="root")

    assert schedules(crontab) == schedules(read(SYSTEM, user="root", has_users=True))
    assert notes(crontab) == notes(read(SYSTEM, user="root", has_users=True))


def test_a_line_without_a_user_among_others_with_one_gets_a_note():
    crontab = read("MAILTO=\n@daily root /bin/true\n@daily ghost /bin/true\n", user="root")

    assert schedules(crontab)[1][2] == "ghost /bin/true"
    assert notes(crontab) == [
        "line 3: it does not begin with a user as lines above do: 'ghost' is its program"
    ]


def test_a_program_that_has_the_name_of_a_user_is_a_program():
    assert schedules(read("@daily backup --all\n")) == [("backup", "@daily", "backup --all")]


@pytest.mark.parametrize("command", ["*", "*x", "* /bin/true", "1-5 /bin/true", "*/2 ann /bin/true"])
@pytest.mark.parametrize("has_users", [False, True])
def test_a_sixth_field_is_no_command(command, has_users):
    crontab = read(f"0 0 3 * * {command}\n", has_users=has_users)

    assert not crontab.definitions
    assert f"'0 0 3 * * {command.split()[0]}' has six fields" in notes(crontab)[0]


def test_variables_of_pam_are_taken_over_unless_the_crontab_sets_them():
    crontab = read(
        "LANG=C\nMAILTO=\n@daily true\n", pam={"LANG": "de_DE.UTF-8", "PATH": "/x", "TZ": "Asia/Tokyo"}
    )

    (definition,) = crontab.definitions
    assert definition.env == ENV | {"LANG": "C", "MAILTO": "", "TZ": "Asia/Tokyo"}
    assert notes(crontab)[0].startswith(
        "cron gives commands TZ=Asia/Tokyo from /etc/environment and /etc/default/locale: the schedules keep"
    )
    assert len(notes(crontab)) == 1


def test_a_file_of_pam_is_read_as_by_pam():
    text = "# c\nLANG=de_DE.UTF-8\nexport FOO=\"bar baz\"\nBAR='q'  # c\nno\n=x\nA B=c\nE=\n"

    assert pam_variables(text) == {"LANG": "de_DE.UTF-8", "FOO": "bar baz", "BAR": "q'  ", "E": ""}


@pytest.mark.parametrize("home", ["", "relative", "/nowhere"])
def test_without_a_home_commands_run_where_cron_runs_them(home):
    crontab = read(f"MAILTO=\nHOME={home}\n@daily true\n")

    (definition,) = crontab.definitions
    assert (definition.cwd, definition.env["HOME"]) == (SPOOL, home)
    assert notes(crontab) == [
        f"line 2: HOME={home} is not the absolute path of a folder: commands run in /var/spool/cron"
    ]


@pytest.mark.parametrize(
    ("path", "has_users"),
    [
        ("/etc/crontab", True),
        ("/etc/cron.d/php", True),
        ("/etc/cron.d/sub/php", False),
        ("/var/spool/cron/crontabs/root", False),
        ("crontab", False),
    ],
)
def test_system_crontabs_are_known_by_their_path(path, has_users):
    assert has_user_column(PurePath(path)) is has_users


def test_a_long_command_is_refused_like_by_cron():
    longest = "x" * MAX_COMMAND

    assert len(read(f"@daily {longest}\n").definitions) == 1
    assert (
        "line 1: not imported: the command has 999 characters, and Debian's cron takes 998: put it"
        in " ".join(notes(read(f"@daily {longest}x\n")))
    )


def test_notes_are_short_and_cannot_move_the_cursor():
    (note,) = notes(read(f"MAILTO=\x1b[2J{'x' * 9999}\n"))

    assert "\x1b" not in note
    assert len(note) < 1000


@pytest.mark.parametrize("text", ["\n" * MAX_LINES, "x" * (MAX_CRONTAB + 1)])
def test_a_file_that_is_too_large_is_refused(text):
    with pytest.raises(ValueError, match="this is not a crontab: it has"):
        read(text)


@pytest.mark.parametrize("text", ALL)
def test_nothing_is_dropped_without_a_line(text):
    check_that_nothing_is_dropped(text, read(text))


lines = st.sampled_from([line for text in ALL for line in text.splitlines()]) | st.text(max_size=30)


@given(st.lists(lines, max_size=20).map("\n".join), st.booleans())
def test_nothing_of_any_file_is_dropped_without_a_line(text, has_users):
    check_that_nothing_is_dropped(text, read(text, has_users=has_users))


def check_that_nothing_is_dropped(text: str, crontab: Crontab) -> None:
    accounted = {each.line for each in crontab.definitions} | {each.line for each in crontab.notes}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip(" \t\r")
        is_variable = re.match(r"""(?:"[^"=]+"|'[^'=]+'|[^\s"'=][^\s=]*)\s*=""", words)
        assert not words or words.startswith("#") or is_variable or number in accounted, line
    assert len({each.name for each in crontab.definitions}) == len(crontab.definitions)
    assert all("\n" not in str(note) for note in crontab.notes)
