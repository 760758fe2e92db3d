"""docs/dashboard.md has the limits of the code."""

from __future__ import annotations

import re

from bgd.core import filters, spec
from bgd.daemon.storage import activity, summaries
from bgd.daemon.web import (
    charts,
    connection,
    finding,
    job_pages,
    live,
    log_groups,
    log_pages,
    log_text,
    overview,
    pages,
    queries,
    search,
    shared_stream,
)
from bgd.daemon.web import connection as browsers
from bgd.wire import http
from tests.daemon.web.every_page import PAGES
from tests.daemon.web.pictures import PICTURES, SCHEMES, WIDTHS, addresses, picture_name
from tests.docs.pages import page, rows_of, section


def test_dashboard_page_says_what_the_page_of_a_log_holds():
    said = " ".join(section(page("docs/dashboard.md"), "## Read a log").split())

    assert f"within the first {log_text.COUNTED >> 20} MB" in said
    assert f"the first {queries.MAX_HITS} matches" in said
    assert f"the last {log_text.MAX_PART >> 10} KiB" in said
    assert f"the first {log_pages.MAX_LISTED} matches" in said
    assert f"more than {log_groups.MAX_GROUP >> 20} MiB behind its beginning" in said


def test_dashboard_page_says_what_the_limits_are():
    table = section(page("docs/dashboard.md"), "## Limits")
    said = [int(number) for row in rows_of(table) for number in re.findall(r"\b\d+\b", row[1])]

    assert said == [
        http.MAX_LINE,
        *(http.MAX_HEADERS, http.MAX_COUNT),
        browsers.HEAD_SECONDS,
        browsers.WRITE_SECONDS,
        connection.MAX_CONNECTIONS,
        *(connection.MAX_STREAMS, shared_stream.MAX_SHARED),
        *(round(1 / live.PAUSE), round(1000 * live.PAUSE / live.PAUSE_FACTOR)),
        *(log_text.MAX_LINES_BEHIND, log_text.MAX_BEHIND // 1024, log_text.LIVE_LINES),
        *(log_text.THREADS, log_text.MAX_SECONDS),
        *(log_pages.MAX_SEARCHES, queries.MAX_TEXT),
        queries.MAX_ROWS,
        *map(int, re.findall(r"const MOST = (\d+)", page("bgd/daemon/web/static/choose.js"))),
        *(spec.MAX_FILTER, filters.MAX_WORDS),
        *(round(1000 * pages.SEARCH_SECONDS), round(1000 * pages.COUNT_SECONDS)),
        finding.MAX_COUNTED,
        queries.MAX_SORTED,
        *(summaries.MAX_NAMES, overview.MAX_QUEUES),
        *(search.MAX_PLACES, search.MAX_PLACES_OF_LOG),
        *(search.MAX_BYTES // 10**9, search.MAX_SECONDS),
        *(search.MAX_SEARCHES, 1),
        job_pages.ATTEMPTS_ON_A_PAGE,
        *(job_pages.LATEST_LOG, job_pages.EARLIER_LOG),
    ]


def test_dashboard_page_says_what_the_overview_looks_at():
    said = section(page("docs/dashboard.md"), "## The overview")

    for number in (
        summaries.MAX_NAMES,
        *(summaries.RUNS, summaries.RECENT),
        summaries.MAX_DISTINCT,
        summaries.NEWEST_JOBS,
        summaries.MAX_UNFINISHED,
        summaries.MAX_FAILED,
        summaries.MAX_FAILURES,
        summaries.MAX_ENDS,
        activity.HOURS_OF_ENDS,
    ):
        assert f"{number:,}" in said


def test_dashboard_page_says_what_charts_are_made_of():
    said = section(page("docs/dashboard.md"), "## Charts")

    for number in (
        charts.MAX_ROWS,
        charts.MAX_SLOTS,
        summaries.MAX_RUNS,
        round(charts.PAUSE),
        *(kept // activity.HOUR for _, kept in activity.LEVELS[:-1]),
        activity.LEVELS[-1][1] // activity.DAY,
        activity.MAX_SUBJECTS,
        activity.KEPT_NAMES,
        round(100 * activity.ERROR),
    ):
        assert str(number) in re.findall(r"\d+", said)


def test_dashboard_page_shows_every_picture_and_each_of_them_is_there():
    names = {
        picture_name(name, width, scheme) for name in addresses(1) for width in WIDTHS for scheme in SCHEMES
    }

    assert set(re.findall(r'"pictures/([^"]+)"', page("docs/dashboard.md"))) == names
    assert {path.name for path in PICTURES.glob("*.png")} == names


def test_every_page_has_pictures():
    shown = {f"/job-logs{address}".partition("?")[0] for address in addresses(1).values()}
    known = {path.format(job=1).partition("?")[0] for path in PAGES}
    plain_text, without_scripts = "/job-logs/1/1", "/job-logs/1/1/search"

    assert known - {plain_text, without_scripts} == {
        path.replace("/nightly-archive", "/default") for path in shown
    }
