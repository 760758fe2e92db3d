from __future__ import annotations

import pytest

from bgd.daemon.web.auth import LINK_SECONDS, MAX_SECRETS, SESSION_SECONDS, Sessions

UID = 4_000_000


@pytest.fixture
def sessions():
    return Sessions()


def test_a_link_works_once(sessions):
    token = sessions.issue_link(UID, at=0)
    secret = sessions.log_in(token, at=1)

    assert sessions.uid_of(secret, at=2) == UID
    assert sessions.log_in(token, at=2) is None


def test_links_and_sessions_expire(sessions):
    late, token = sessions.issue_link(UID, at=0), sessions.issue_link(UID, at=0)
    secret = sessions.log_in(token, at=LINK_SECONDS - 1)

    assert sessions.log_in(late, at=LINK_SECONDS) is None
    assert sessions.uid_of(secret, at=LINK_SECONDS - 1 + SESSION_SECONDS - 1) == UID
    assert sessions.uid_of(secret, at=LINK_SECONDS - 1 + SESSION_SECONDS) is None


def test_neither_a_guess_nor_a_link_token_is_a_session(sessions):
    token = sessions.issue_link(UID, at=0)

    assert sessions.uid_of(token, at=0) is None
    assert sessions.uid_of("x" * 43, at=0) is None
    assert sessions.uid_of("", at=0) is None


def test_the_oldest_link_and_the_oldest_session_are_dropped(sessions):
    tokens = [sessions.issue_link(UID, at=0) for _ in range(MAX_SECRETS + 1)]
    assert sessions.log_in(tokens[0], at=0) is None

    secrets = [sessions.log_in(token, at=0) for token in tokens[1:]]
    last = sessions.log_in(sessions.issue_link(UID, at=0), at=0)
    assert [sessions.uid_of(secret, at=0) for secret in [*secrets, last]] == [None] + [UID] * MAX_SECRETS


def test_secrets_themselves_are_not_kept(sessions):
    token = sessions.issue_link(UID, at=0)
    secret = sessions.log_in(sessions.issue_link(UID, at=0), at=0)

    kept = repr([vars(each) for each in vars(sessions).values()])
    assert token not in kept
    assert secret not in kept
