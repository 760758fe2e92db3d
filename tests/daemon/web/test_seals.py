"""Only the daemon that sent a page, or the next one with its secret, can put seals on answers to it."""

from __future__ import annotations

import base64
import hmac
import json
import re

from bgd.daemon.web.seals import Seals
from bgd.wire.http import HttpRequest
from tests.daemon.web.browsing import Browser

NONCE = "0123456789abcdef" * 2


def request(query):
    return HttpRequest(is_head=False, path="/job-logs/live", query=query, headers={})


def seal_of(key, count, data):
    sealed = f"{NONCE}\n{count}\n".encode() + data
    return base64.b64encode(hmac.digest(base64.b64decode(key), sealed, "sha256")).decode()


def sealed(seals, page, *events):
    _, seal = seals.take_from(request(f"page={page}&nonce={NONCE}"))
    return [seal.put_on_event(b"data: " + data + b"\n\n") for data in events]


def test_each_event_is_sealed_with_its_number():
    seals = Seals(b"secret")
    new = seals.new_page()

    events = [b"null", b'{"a": 1}']

    assert sealed(seals, new["page"], *events) == [
        f"id: {NONCE} {seal_of(new['key'], count, data)}\n".encode() + b"data: " + data + b"\n\n"
        for count, data in enumerate(events)
    ]


def test_every_page_has_a_key_of_its_own_and_another_daemon_has_it_only_with_the_secret():
    one, other = Seals(b"secret").new_page(), Seals(b"secret").new_page()
    assert one["key"] != other["key"]

    made = {secret: sealed(Seals(secret), one["page"], b"null") for secret in (b"secret", b"another")}

    assert seal_of(one["key"], 0, b"null").encode() in made[b"secret"][0]
    assert made[b"another"] != made[b"secret"]


def test_what_a_page_adds_to_an_address_is_taken_off_again():
    seals = Seals(b"secret")
    added = f"page={seals.new_page()['page']}&nonce={NONCE}"

    for query in ("q=mail&since=3", ""):
        taken, seal = seals.take_from(request(f"{query}&{added}" if query else added))
        assert seal is not None
        assert (taken.query, seal.nonce, seal.shared) == (query, NONCE, "")
    taken, seal = seals.take_from(request(f"q=mail&{added}&shared={NONCE[::-1]}"))
    assert seal is not None
    assert (taken.query, seal.shared) == ("q=mail", NONCE[::-1])
    for query in ("", "q=mail", f"{added}x", f"{added}&q=mail", f"page=x&nonce={NONCE}", "page=3"):
        assert seals.take_from(request(query)) == (request(query), None)


def test_the_daemon_seals_what_a_page_loads_and_nothing_for_others(daemon):
    browser = Browser(daemon).log_in()
    page = browser.get("/job-logs").text
    found = re.search(r' data-page="([\w-]{22})" data-key="([^"]{44})"', page)
    assert found is not None
    assert found[2] not in browser.get("/job-logs").text  # the next page has another one

    answered = browser.get(f"/job-logs/complete?word=state:&page={found[1]}&nonce={NONCE}")

    assert answered.headers["x-bgd-seal"] == seal_of(found[2], 0, answered.body)
    assert answered.json == browser.json("/job-logs/complete?word=state:")
    assert "x-bgd-seal" not in browser.get("/job-logs/complete?word=state:").headers
    assert json.dumps(found[2]) not in json.dumps(answered.headers)
    browser.cookie = None
    assert "x-bgd-seal" not in browser.get(f"/job-logs/seal?page={found[1]}&nonce={NONCE}").headers
