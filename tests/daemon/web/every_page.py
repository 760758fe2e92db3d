"""The addresses of all pages, as the router knows them: a new page joins the tests of all pages by itself."""

from __future__ import annotations

from bgd.daemon.web import router

# What stands for a group of a path; the first that is part of a path counts
EXAMPLES = {
    router._ID: "{job}",
    router._ATTEMPT: "1",
    router._BATCH: "1",
    router._QUEUE: "default",
}
QUERIES = {"/search": "?text=o"}  # without which the page at such a path refuses to answer
# What a daemon needs so that all these addresses lead to something
CONFIGURATION = """
[schedules.default]
cron = "0 3 * * *"
command = ["/bin/true"]
"""
NOT_PAGES = (
    "/live",
    "/complete",
    "/check",
    "/part",
    "/seal",
    "/all",
    "/shared",
    r"\.",
)  # streams, answers of actions and scripts, files


def page_addresses() -> list[str]:
    """Return the address of each page that a session opens; {job} stands for the id of a job."""
    found = [
        pattern
        for pattern in (each.removesuffix(router._LIVE) for each in router.PAGES)
        if pattern.startswith("/job-logs") and not any(part in pattern for part in NOT_PAGES)
    ]
    return sorted(filled(pattern) for pattern in found)


def filled(pattern: str) -> str:
    for group, example in EXAMPLES.items():
        pattern = pattern.replace(group, example)
    assert not set(pattern) & set("[]()*+?"), f"add an example for a group of {pattern} to EXAMPLES"
    return pattern + QUERIES.get(f"/{pattern.rpartition('/')[2]}", "")


PAGES = page_addresses()
