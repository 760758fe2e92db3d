"""HTTP/1.1 as bytes: what is accepted as a request, what is refused with which status, and the answers."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.wire.http import (
    MAX_COUNT,
    MAX_HEADERS,
    MAX_LINE,
    SECURITY_HEADERS,
    TEXT,
    HttpExchange,
    HttpRequest,
    HttpResponse,
    RequestRefused,
    bad_request,
    not_found,
    refusal,
    unavailable,
)

PLAIN = b"GET /job-logs?state=failed HTTP/1.1\r\nHost: a:1\r\nCookie: x=1; bgd=secret\r\n\r\n"


def headers(count, size=1):
    return b"".join(b"X%d: %s\r\n" % (number, b"x" * size) for number in range(count))


def request(head=b"", line=b"GET / HTTP/1.1", host=b"Host: a\r\n"):
    return line + b"\r\n" + host + head + b"\r\n"


def status_of(data):
    with pytest.raises(RequestRefused) as refused:
        HttpExchange().receive(data)
    return refused.value.response.status


def answered(data, response):
    exchange = HttpExchange()
    exchange.receive(data)
    return exchange.begin(response)


def test_a_request_is_its_head_as_it_was_sent():
    assert HttpExchange().receive(PLAIN) == HttpRequest(
        is_head=False,
        path="/job-logs",
        query="state=failed",
        headers={"host": "a:1", "cookie": "x=1; bgd=secret"},
    )


def test_a_request_is_the_same_whatever_the_pieces():
    exchange = HttpExchange()
    pieces = [exchange.receive(PLAIN[index : index + 1]) for index in range(len(PLAIN))]

    assert pieces[:-1] == [None] * (len(PLAIN) - 1)
    assert pieces[-1] == HttpExchange().receive(PLAIN)


@pytest.mark.parametrize(
    ("cookies", "values"),
    [
        (b"Cookie: bgd=1\r\n", ["1"]),
        (b"Cookie: a=2; bgd=1; b\r\n", ["1"]),
        (b"Cookie: a=2\r\nCookie: bgd=1\r\n", ["1"]),
        (b"Cookie: bgd=2; bgd=1\r\n", ["2", "1"]),
        (b"Cookie: xbgd=1\r\n", []),
        (b"", []),
    ],
)
def test_cookies_are_found_by_their_whole_name(cookies, values):
    found = HttpExchange().receive(request(cookies))
    assert found is not None
    assert found.cookies("bgd") == values


def test_paths_and_header_values_are_left_undecoded():
    found = HttpExchange().receive(request(b"X: \xff\r\n", line=b"HEAD /..%2f%00?a=%ff HTTP/1.1"))
    assert found is not None
    assert (found.is_head, found.path, found.query) == (True, "/..%2f%00", "a=%ff")
    assert found.headers["x"] == "\xff"


def test_a_request_at_the_limits_is_accepted():
    line = b"GET /" + b"x" * (MAX_LINE - len(b"GET / HTTP/1.1")) + b" HTTP/1.1"
    assert HttpExchange().receive(request(line=line))
    assert HttpExchange().receive(request(headers(MAX_COUNT - 1)))
    assert HttpExchange().receive(request(b"Content-Length: 0\r\n"))
    assert HttpExchange().receive(request(line=b"GET / HTTP/1.0"))


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"), 400),
        (request(b"Transfer-Encoding: chunked\r\n"), 400),
        (request(b"Content-Length: 1\r\n"), 400),
        (request(b"Content-Length: +0\r\n"), 400),
        (request(b"Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400),
        (request(b"X: y\r\n folded\r\n"), 400),
        (request(b"X : y\r\n"), 400),
        (request(b"X: \0\r\n"), 400),
        (request(line=b"GET http://a/ HTTP/1.1"), 400),
        (request(line=b"GET a HTTP/1.1"), 400),
        (request(line=b"GET /\xff HTTP/1.1"), 400),
        (request(line=b"GET /"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (request(host=b""), 400),
        (request(host=b"", line=b"GET / HTTP/1.0"), 400),
        (request(b"Host: a\r\n"), 400),
        (request(line=b"PUT / HTTP/1.1"), 405),
        (request(line=b"OPTIONS * HTTP/1.1"), 405),
        (request(line=b"CONNECT a:80 HTTP/1.1"), 405),
        (request(line=b"GET /" + b"x" * MAX_LINE + b" HTTP/1.1"), 414),
        (b"x" * (MAX_LINE + 1), 414),
        (request(headers(1, size=20_000)), 431),
        (request(headers(10, size=MAX_HEADERS // 10)), 431),
        (request(headers(MAX_COUNT + 1)), 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (request(line=b"GET / HTTP/1.2"), 505),
    ],
)
def test_an_ambiguous_or_too_large_request_is_refused(data, status):
    assert status_of(data) == status


def test_headers_without_end_are_refused_before_they_end():
    exchange = HttpExchange()
    exchange.receive(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * MAX_COUNT)
    with pytest.raises(RequestRefused) as refused:
        exchange.receive(b"X: y\r\n" * 2)
    assert refused.value.response.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


def test_a_refused_method_is_answered_with_those_that_are_served():
    with pytest.raises(RequestRefused) as refused:
        HttpExchange().receive(request(line=b"DELETE / HTTP/1.1"))
    assert ("Allow", "GET, HEAD") in refused.value.response.headers


def test_a_refusal_is_one_line_even_if_nothing_was_understood():
    exchange = HttpExchange()
    with pytest.raises(RequestRefused) as refused:
        exchange.receive(b"\0\r\n\r\n")
    head, _, body = exchange.begin(refused.value.response).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n")
    assert body.endswith(b"\n")
    assert body.count(b"\n") == 1


def test_every_answer_has_the_security_headers_and_ends_the_connection():
    for response in (HttpResponse(body=b"x"), HttpResponse(body=None), refusal(HTTPStatus.FORBIDDEN, "no")):
        head = answered(PLAIN, response).partition(b"\r\n\r\n")[0].decode().split("\r\n")
        assert {f"{name}: {value}" for name, value in SECURITY_HEADERS} <= set(head)
        assert "Connection: close" in head


def test_answers_are_not_cached_unless_they_say_so():
    kept = HttpResponse(body=b"x", caching="immutable")
    assert b"\r\nCache-Control: no-store\r\n" in answered(PLAIN, HttpResponse(body=b"x"))
    assert answered(PLAIN, kept).count(b"\r\nCache-Control: immutable\r\n") == 1


def test_an_answer_of_known_length_is_complete_at_once():
    data = answered(PLAIN, HttpResponse(body=b"hello", headers=(("X-Y", "z"),)))
    assert b"\r\nContent-Length: 5\r\n" in data
    assert b"\r\nX-Y: z\r\n" in data
    assert data.endswith(b"\r\n\r\nhello")


def test_an_answer_in_parts_is_chunked_and_for_an_old_client_ends_with_the_connection():
    exchange = HttpExchange()
    exchange.receive(PLAIN)
    data = (
        exchange.begin(HttpResponse(body=None))
        + exchange.more(b"one")
        + exchange.more(b"two")
        + exchange.end()
    )
    assert data.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")

    exchange = HttpExchange()
    exchange.receive(request(line=b"GET / HTTP/1.0"))
    data = exchange.begin(HttpResponse(body=None)) + exchange.more(b"one") + exchange.end()
    assert data.endswith(b"\r\n\r\none")


def test_a_head_request_gets_no_body():
    data = answered(request(line=b"HEAD / HTTP/1.1"), HttpResponse(body=b"hello"))
    assert b"\r\nContent-Length: 5\r\n" in data
    assert data.endswith(b"\r\n\r\n")


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_refused_or_understood(first, second):
    exchange = HttpExchange()
    for data in (first, second):
        try:
            request = exchange.receive(data)
        except RequestRefused as refused:
            exchange.begin(refused.response)
            return
        if request is not None:
            return


@pytest.mark.parametrize(("refuse", "status"), [(bad_request, 400), (not_found, 404), (unavailable, 503)])
def test_a_refusal_of_a_common_kind_says_why_in_plain_text(refuse, status):
    response = refuse("Write less.").response

    assert (response.status, response.content_type, response.body) == (status, TEXT, b"Write less.\n")
