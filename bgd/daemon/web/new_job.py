"""The form for a new job, which may begin as what an earlier job was."""

from __future__ import annotations

import shlex
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from markupsafe import escape
from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.job import JobId
from bgd.core.spec import DEFAULT_QUEUE, NOT_SCHEDULED, JobNumber, JobSpec, Name, Priority, QueueName
from bgd.daemon.storage import read
from bgd.daemon.storage.records import StoredSpec
from bgd.daemon.web.queries import convert_fields, parse_fields
from bgd.daemon.web.responses import PageResponse, html_response, json_response
from bgd.daemon.web.site import Site
from bgd.errors import BgdError, Refused
from bgd.system.clock import now
from bgd.text.brief import command_line, quoted
from bgd.text.escape import one_line
from bgd.wire.class_jobs import problem_with_arguments
from bgd.wire.http import HttpRequest, RequestRefused, not_found

MAX_SENT = 12 * 1024  # bytes of the fields in their header, percent-encoded: all headers together have 16 KiB
FORM_HEADER = "x-bgd-form"  # requests have no body


class _Form(Struct, frozen=True, kw_only=True):
    """What a person typed. `job`: the earlier job. Without `command` and `target` the form is new."""

    job: JobNumber | None = None
    command: str | None = None
    target: Annotated[str, Meta(max_length=500)] | None = None
    arguments: str | None = None
    name: Name | None = None
    queue: QueueName | None = None
    priority: Priority | None = None


async def new_job(site: Site, request: HttpRequest) -> PageResponse:
    """Return the form, with the command as it will run."""
    text = request.query
    form, earlier = await _read(site, text)
    fields = {name: values[-1] for name, values in parse_fields(text).items()}
    if form.command is None and form.target is None and earlier is not None:
        fields = _fields_of(earlier.spec) | {"job": str(form.job)}
        form = _form(fields)
    values = {
        # as typed, and not with special characters made visible: the form sends it back
        "fields": dict.fromkeys(_Form.__struct_fields__, "")
        | {name: escape(text) for name, text in fields.items()},
        "is_call": "target" in fields or "call" in fields,
        "fits": _fits("".join(fields.values())),
        **_shown(site, form, earlier),
    }
    return await html_response("new_job.html", values | await site.views.values(None, 0))


async def check(site: Site, request: HttpRequest) -> PageResponse:
    """Return what the form would submit, as JSON: its words, or what is wrong with it."""
    try:
        shown = _shown(site, *await _read(site, _sent(request)))
    except RequestRefused as error:
        shown = {"words": [], "problem": str(error)}
    return await json_response(shown)


async def submit(site: Site, request: HttpRequest, asked_by: str) -> PageResponse:
    """Submit the job of a form; return its id as JSON once it is on disk."""
    form, earlier = await _read(site, _sent(request))
    try:
        spec = _spec_of(form, earlier)
        async with site.actions.keeping_jobs([spec]):
            _check(site, spec)
            finished, at = await site.actions.finished_dependencies(spec.after)
            actions = site.actions.asked_by(asked_by)
            submitted = actions.submit([spec], site.authenticator.uid, finished=finished, at=at)
    except BgdError as error:
        raise RequestRefused(HTTPStatus.CONFLICT, str(error)) from error
    await site.supervisor.saved()
    return await json_response({"id": submitted.jobs[0]})


def _fits(text: str) -> bool:
    """Return whether a form can send this text back unchanged; browsers change line ends."""
    return "\r" not in text and len(quote(text)) <= MAX_SENT


def _sent(request: HttpRequest) -> str:
    return request.headers.get(FORM_HEADER, "")


async def _read(site: Site, text: str) -> tuple[_Form, StoredSpec | None]:
    """Return a form, and what the earlier job was."""
    form = _form({name: values[-1] for name, values in parse_fields(text).items()})
    if form.job is None:
        return form, None
    if (earlier := await site.store.read(read.read_spec, JobId(form.job))) is None:
        raise not_found(f"There is no job {form.job}.")
    return form, earlier


def _form(fields: dict[str, str]) -> _Form:
    return convert_fields(dict[str, object](fields), _Form)


def _fields_of(spec: JobSpec) -> dict[str, str]:
    """Return the fields of a form for a job like an earlier one."""
    if spec.argv is not None:
        fields = {"command": " ".join(map(quoted, spec.argv))}
    else:
        fields = {"target": spec.target or "", "arguments": spec.arguments or ""}
    given = {"name": spec.name, "queue": spec.queue, "priority": spec.priority}
    return fields | {name: str(value) for name, value in given.items() if value is not None}


def _spec_of(form: _Form, earlier: StoredSpec | None) -> JobSpec:
    """Return the new job: a copy of the earlier one with the fields of the form, due at once.

    If its arguments refer to results of other jobs, it waits for these.

    Raises:
        Refused: the form has no command, or one that cannot be read.
    """
    spec = JobSpec()
    if earlier is not None:
        sources = dict.fromkeys(each.job for each in earlier.spec.references)
        spec = replace(earlier.whole(), **_DUE_NOW | {"after": tuple(sources)})
    if form.target is None:
        work: dict[str, Any] = {"argv": _words(form.command or "")}
    else:
        if form.arguments is not None and (problem := problem_with_arguments(form.arguments)) is not None:
            raise Refused(problem)
        work = {"target": form.target, "arguments": form.arguments}
    return replace(spec, **work, name=form.name, queue=form.queue, priority=form.priority)


_KEPT = {"key", "key_until", "key_for", "session"}
_DUE_NOW = {name: getattr(JobSpec(), name) for name in (*(NOT_SCHEDULED - _KEPT), "cause")}


def _check(site: Site, spec: JobSpec) -> None:
    """Raise Refused if a job cannot be submitted now."""
    site.actions.check([spec])
    holder = None if spec.key is None else site.supervisor.scheduler.holder_of(spec.key, now())
    if holder is not None:
        raise Refused(f"job {holder} still has the key {quoted(spec.key or '')}")


def _words(command: str) -> tuple[str, ...]:
    try:
        words = shlex.split(command.replace("\r\n", "\n"))  # browsers send line ends in this way
    except ValueError as error:
        raise Refused(f"this cannot be split into words: {str(error).lower()}") from error
    if not words:
        raise Refused("type a command")
    return tuple(words)


def _shown(site: Site, form: _Form, earlier: StoredSpec | None) -> dict[str, object]:
    """Return the job of a form as it will run, and why it cannot be submitted; None: it can."""
    shown: dict[str, object] = {"words": [], "where": None, "queue": DEFAULT_QUEUE, "problem": None}
    try:
        spec = _spec_of(form, earlier)
        shown |= {
            "words": [one_line(word) for word in spec.argv or (command_line(spec),)],
            "where": spec.cwd,
            "queue": spec.queue or DEFAULT_QUEUE,
        }
        _check(site, spec)
    except BgdError as error:
        shown["problem"] = str(error)
    return shown
