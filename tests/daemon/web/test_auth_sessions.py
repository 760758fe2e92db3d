from __future__ import annotations

import stat

import pytest

from bgd.daemon.web.auth import LINK_SECONDS, MAX_SECRETS, SESSION_SECONDS, Sessions

UID = 4_000_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.json"


@pytest.fixture
def sessions(path):
    return Sessions(path)


def log_in(sessions):
    return sessions.log_in(sessions.issue_link(UID, at=0), at=0, now=0)


def test_a_link_works_once(sessions):
    token = sessions.issue_link(UID, at=0)
    session = sessions.log_in(token, at=1, now=1000)

    assert sessions.uid_of(session[0], now=1001) == UID
    assert sessions.log_in(token, at=2, now=1001) is None


def test_links_and_sessions_expire(sessions):
    late, token = sessions.issue_link(UID, at=0), sessions.issue_link(UID, at=0)
    secret = sessions.log_in(token, at=LINK_SECONDS - 1, now=1000)[0]

    assert sessions.log_in(late, at=LINK_SECONDS, now=1001) is None
    assert sessions.uid_of(secret, now=1000 + SESSION_SECONDS - 1) == UID
    assert sessions.uid_of(secret, now=1000 + SESSION_SECONDS) is None


def test_neither_a_guess_nor_a_link_token_is_a_session(sessions):
    token = sessions.issue_link(UID, at=0)

    assert sessions.uid_of(token, now=0) is None
    assert sessions.uid_of("x" * 43, now=0) is None
    assert sessions.uid_of("", now=0) is None


def test_only_the_token_of_a_session_may_write_and_the_cookie_does_not_reveal_it(sessions):
    one, other = log_in(sessions), log_in(sessions)

    assert sessions.uid_of(one[0], 1, one[1]) == UID
    for token in (one[0], other[1], ""):
        assert sessions.uid_of(one[0], 1, token) is None
    assert sessions.uid_of(one[0], SESSION_SECONDS, one[1]) is None


def test_a_session_that_can_only_read_accepts_no_token_also_after_a_restart(sessions, path):
    session = sessions.log_in(sessions.issue_link(UID, at=0, can_write=False), at=0, now=0)
    sessions.save()

    assert session[1] == ""
    for each in (sessions, Sessions(path)):
        assert each.uid_of(session[0], now=1) == UID
        assert {each.uid_of(session[0], 1, token) for token in ("", "token")} == {None}


def test_the_oldest_link_and_the_oldest_session_are_dropped(sessions):
    tokens = [sessions.issue_link(UID, at=0) for _ in range(MAX_SECRETS + 1)]
    assert sessions.log_in(tokens[0], at=0, now=0) is None

    logged_in = [sessions.log_in(token, at=0, now=0) for token in tokens[1:]]
    logged_in.append(log_in(sessions))
    assert [sessions.uid_of(each[0], now=0) for each in logged_in] == [None] + [UID] * MAX_SECRETS


def test_sessions_and_their_port_are_saved_privately_and_links_are_not(sessions, path):
    link, session = sessions.issue_link(UID, at=0), log_in(sessions)
    sessions.port = 8645
    sessions.save()

    later = Sessions(path)
    assert (later.port, later.uid_of(session[0], now=1)) == (8645, UID)
    assert later.uid_of(session[0], 1, session[1]) == UID
    assert later.log_in(link, at=1, now=1) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_sessions_are_worth_nothing_without_the_key_that_they_began_with(path):
    first = Sessions(path, b"one")
    session = log_in(first)
    first.save()

    for key in (b"", b"other"):
        assert Sessions(path, key).uid_of(session[0], now=1) is None
        assert Sessions(path, key).uid_of(session[0], 1, session[1]) is None
    assert Sessions(path, b"one").uid_of(session[0], 1, session[1]) == UID
    assert "one" not in path.read_text()


def test_secrets_themselves_are_neither_kept_nor_saved(sessions, path):
    token, session = sessions.issue_link(UID, at=0), log_in(sessions)
    sessions.save()

    kept = repr(vars(sessions)) + path.read_text()
    for secret in (token, session[0], session[1]):
        assert secret not in kept


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"port": "x", "sessions": []}', '{"port": 1, "sessions": [{}]}']
)
def test_a_damaged_file_costs_logins_and_nothing_else(path, text):
    path.write_text(text)
    sessions = Sessions(path)

    assert sessions.port == 0
    assert sessions.uid_of(log_in(sessions)[0], now=1) == UID


def test_a_file_that_cannot_be_written_costs_nothing_now(path, caplog):
    path.mkdir()
    sessions = Sessions(path)
    session = log_in(sessions)
    sessions.save()

    assert sessions.uid_of(session[0], now=1) == UID
    assert f"{path} cannot be written, so logins end with the daemon" in caplog.text
