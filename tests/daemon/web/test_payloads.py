"""Texts of jobs never become markup or scripts: in a real browser, on every page, wherever they can stand."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest

from bgd import Refused
from tests.daemon.web import every_page
from tests.daemon.web.chromium import needs_chromium

PRINTABLE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '"><script>alert(1)</script>',
    "' autofocus onfocus=alert(1) x='",
    '" onmouseover="alert(1)" style="position:fixed;inset:0',
    "</pre></code><iframe src=javascript:alert(1)>",
    "</title><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "<a href=javascript:alert(1)>click</a>",
    "<meta http-equiv=refresh content='0;url=http://evil.example/'>",
    "<base href=http://evil.example/>",
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<style>*{display:none}</style>",
    "data:text/html,<script>alert(1)</script>",
    "<object data=http://evil.example/></object>",
    "<details open ontoggle=alert(1)>",
    "<button data-verb=cancel data-path=/job-logs/pause>Resume</button>",
    "<math><mtext></form><form><mglyph><svg><mtext><style><path id=</style><img onerror=alert(1) src>",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}`${alert(1)}`",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)",
    "javascript:alert(1)",
    "<form action=http://evil.example/><input name=queue>",
    "\\u003cscript\\u003ealert(1)",
    "<!--",
    "<textarea>",
    "<plaintext>",
]
# Several at once: if one becomes markup, that shows. A scheme of an address must be the first of three.
THREES = [" ".join(PRINTABLE[first : first + 3]) for first in range(0, len(PRINTABLE), 3)]
FIVES = [" ".join(PRINTABLE[first : first + 5]) for first in range(0, len(PRINTABLE), 5)]
RAW = [  # not allowed in names, but in arguments and output
    "\x1b]0;owned\x07",
    "\x1b]8;;http://evil.example/\x07click\x1b]8;;\x07",
    "\x1b]52;c;aGVsbG8=\x07",
    "\x1b[8mhidden\x1b[0m",
    "\x1b[31m<b>red</b>\x1b[0m",
    '\x1b[31;"onclick="alert(1)m',
    "one\rtwo",
    "\u202egnp.exe",
    "\x9b31m",
    "\ufeff\u200b",
]
CLASS_JOBS = """
class Oops(Exception):
    pass

def fail(text):
    raise Oops(text)

def back(text):
    return {text: [text]}
"""
CONFIGURATION = """
[security]
allowed_classes = ["said.*"]
[python]
path = ["~"]
[retry]
retries = 0
"""
pytestmark = [
    needs_chromium,
    pytest.mark.daemon(CONFIGURATION + every_page.CONFIGURATION, {"said.py": CLASS_JOBS}),
]


@pytest.fixture
def tab(context, client):
    """A tab that has logged in. Whatever its pages load, run, ask or complain about fails the test."""
    tab = context.new_page()
    complaints: list[str] = []
    tab.add_init_script(
        "addEventListener('securitypolicyviolation', e => console.error(`policy: ${e.violatedDirective}`))"
    )
    tab.on(
        "console",
        lambda message: (
            complaints.append(f"{message.text} {message.location}") if not is_usual(message) else None
        ),
    )
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: complaints.append(request.url) if is_elsewhere(request.url) else None)
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    yield tab
    tab.close()
    assert complaints == []


def is_elsewhere(address: str) -> bool:
    return not re.match(r"http://bgd-[0-9a-f]{20}\.localhost:", address)


def is_usual(message) -> bool:
    """Tell whether the browser says that a filter is refused, or that a log as plain text has no icon."""
    address = message.location["url"]
    is_expected = "/job-logs?" in address or address.endswith("/favicon.ico")
    return message.text.startswith("Failed to load resource") and is_expected


def look_at_every_page(tab, job_ids):
    """Open every page, of each of these jobs if it is of a job."""
    origin = tab.url.partition("/job-logs")[0]
    for address in every_page.PAGES:
        for job_id in job_ids if "{job}" in address else [0]:
            assert tab.goto(origin + address.format(job=job_id)).status == 200
            if tab.evaluate("document.contentType") == "text/html":
                assert_only_our_own_markup(tab)


def assert_only_our_own_markup(tab):
    assert tab.locator(FOREIGN).count() == 0
    assert tab.evaluate(BAD_ATTRIBUTES) == []


# Elements that no template of ours has
FOREIGN = (
    "script:not([src*='/static/']), link:not([href*='/static/']):not([rel=icon]), meta[http-equiv], base, "
    "style, iframe, object, plaintext, math, textarea:not(label > [name=command], label > [name=arguments]), "
    "pre img, [data-verb=cancel][data-path]"
)
# In output, addresses of http and https that stand there are links
BAD_ATTRIBUTES = """() => {
  const isAddressInOutput = (link, address) => link.matches("pre a[rel='noopener noreferrer']")
    && /^https?:/.test(address) && link.textContent === address;
  return [...document.querySelectorAll("*")].flatMap((element) => [...element.attributes].filter(
    ({ name, value }) => name.startsWith("on") || name === "style"
      || (["href", "src", "action", "data-live"].includes(name)
        && new URL(value, location).origin !== location.origin && !isAddressInOutput(element, value))
  ).map(({ name, value }) => `${name}=${value}`));
}"""


def test_names_arguments_output_tags_keys_files_folders_and_variables(tab, client, daemon):
    texts = THREES + RAW
    jobs = []
    for number, text in enumerate(texts):
        named = {"name": text, "tags": [text], "key": text} if text.isprintable() else {}
        folder = daemon.folder / f"{number}{text.replace('/', '|')}"
        folder.mkdir()
        (folder / text.replace("/", "|")).write_text(text)
        stdin = folder / text.replace("/", "|")
        env = {f"V{text.replace('=', '')}": text}
        jobs.append(
            client.submit(["/usr/bin/printf", "%s\\n", text], cwd=folder, stdin=stdin, env=env, **named)
        )
    texts_alone = PRINTABLE + RAW
    env = {f"V{text.replace('=', '')}": text for text in texts_alone}
    together = client.submit(["/usr/bin/printf", "%s\\n", *texts_alone], env=env, tags=PRINTABLE[:20])
    client.wait([job.id for job in (*jobs, together)])
    client.batch([["true"]], PRINTABLE[0], then=["printf", "%s", *texts])

    look_at_every_page(tab, [together.id, jobs[0].id])
    origin = tab.url.partition("/job-logs")[0]
    for job, text in zip(jobs, texts, strict=True):
        tab.goto(f"{origin}/job-logs/{job.id}")
        assert_only_our_own_markup(tab)
        if text.isprintable():
            assert tab.title() == f"Job {job.id} {text} · bgd"
            assert tab.locator("h1 .name").text_content() == text
            assert tab.locator(".log pre").text_content() == f"{text}\n"
        else:
            assert not set(tab.locator("body").text_content()) & set("\x1b\x07\r\x9b\u202e")


def test_errors_results_and_tracebacks(tab, client):
    raised = [client.call("said:fail", [text]) for text in FIVES]
    returned = client.call("said:back", ["".join(PRINTABLE)])
    lost = client.submit(["/nowhere/" + "".join(PRINTABLE)], check=False)
    client.wait([job.id for job in (*raised, returned, lost)])

    look_at_every_page(tab, [raised[0].id, returned.id, lost.id])
    origin = tab.url.partition("/job-logs")[0]
    for job, text in zip(raised, FIVES, strict=True):
        tab.goto(f"{origin}/job-logs/{job.id}")
        assert_only_our_own_markup(tab)
        assert text in tab.locator("main").text_content()


def test_filters(tab):
    """What somebody puts into an address, for example into a link."""
    origin = tab.url.partition("/job-logs")[0]
    for text in THREES:
        tab.goto(f"{origin}/job-logs?{'&'.join(f'{field}={quote(text)}' for field in ('name', 'tag', 'q'))}")
        assert_only_our_own_markup(tab)
    for text in FIVES:
        assert tab.goto(f"{origin}/job-logs?state={quote(text)}").status == 400
        assert_only_our_own_markup(tab)


@pytest.mark.parametrize("text", PRINTABLE)
def test_names_of_queues_cannot_have_markup(client, text):
    with pytest.raises(Refused):
        client.submit(["/bin/true"], queue=text)
