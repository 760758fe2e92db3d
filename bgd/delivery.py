"""Deliver a notification: `python -P -m bgd.delivery [--config FILE] TARGET`, which its job runs.

A Message comes on stdin. [notify.TARGET] says at that moment whether a program, sendmail or a server gets it.
The exit code is that of the program or of sendmail; what bgd itself finds wrong takes one line on stderr. The
job is not tried again after NEVER: there is no such target, or no message.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from email import policy
from email.message import EmailMessage
from http.client import HTTPException
from types import FrameType
from typing import NoReturn
from urllib.error import HTTPError
from urllib.parse import urlsplit, urlunsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)
from uuid import NAMESPACE_DNS, uuid5

import msgspec
from msgspec import Struct

import bgd
from bgd.core.notifications import NEVER, Message, NotifyEvent
from bgd.errors import BgdError, ConfigError, nearest
from bgd.logs.files import last_lines
from bgd.settings import config as configuration
from bgd.settings.config import NotifyTarget
from bgd.system.streams import open_closed_streams, use_utf_8
from bgd.text.escape import one_line
from bgd.text.facts import Instant, facts_of_message
from bgd.text.formatting import outcome_in_words

EX_CONFIG = 78  # sysexits.h: as long as the configuration cannot be read
CANNOT_RUN, NOT_FOUND = 126, 127  # as a shell says it

MAX_MESSAGE = 4_000_000  # bytes of JSON
MAX_FACT = 2_000  # characters of a value in a text or a variable
MAX_SUBJECT = 200  # characters of a name in a headline
MAX_PING = 10_000  # bytes, which is what a ping may carry
SENDMAIL_FOLDERS = "/usr/sbin:/usr/lib"  # where it is if it is not on PATH
TIMEOUT = 20.0  # seconds for a ping, from the first look-up to the answer

PREFIX = "BGD_NOTIFICATION_"  # of variables; BGD_NOTIFY_ belongs to the keys of [notify]


class NotDelivered(BgdError):
    """The notification was not delivered; the job ends with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Notification(Struct, frozen=True):
    """A message, where it comes from, and the last lines of the log that it is about."""

    message: Message
    host: str
    output: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Deliver the message on stdin; return the exit code."""
    open_closed_streams()
    use_utf_8()
    options = _parser().parse_args(arguments)
    try:
        message = _read_message()
        target = _target(options.target, options.config)
        log = None if message.event is NotifyEvent.STARTED else message.log
        deliver(Notification(message, socket.gethostname(), last_lines(log)), options.target, target)
    except ConfigError as error:
        return _failed(error, EX_CONFIG)
    except NotDelivered as error:
        return _failed(error, error.exit_code)
    return 0


def deliver(notification: Notification, name: str, target: NotifyTarget) -> None:
    """Deliver a notification to a target; if that is a program, this process becomes it.

    Raises:
        NotDelivered: it was not delivered, and why.
    """
    settings = tuple(f"BGD_{section.upper()}_" for section in configuration.SCHEMA)  # some are secret
    environ = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    if target.url is not None:
        ping(notification, name, target.url)
    elif target.mail is not None:
        become((_sendmail(name), "-i", "--", target.mail), as_mail(notification, target.mail), environ, name)
    elif target.program is not None:
        become(target.program, as_json(notification), environ | as_variables(notification), name)


def _failed(error: BgdError, exit_code: int) -> int:
    print(f"bgd: {error}", file=sys.stderr)  # noqa: T201 - the log of the job
    return exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bgd.delivery", description="Deliver the notification on stdin.")
    parser.add_argument("--config", metavar="FILE", help="configuration that has the target")
    parser.add_argument("target", metavar="TARGET", help="name of the target")
    return parser


def _read_message() -> Message:
    data = sys.stdin.buffer.read(MAX_MESSAGE + 1)
    if len(data) > MAX_MESSAGE:
        raise NotDelivered(f"the notification is over the limit of {MAX_MESSAGE} bytes", NEVER)
    try:
        return msgspec.json.decode(data, type=Message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotDelivered(f"stdin is not a notification: {error}", NEVER) from error


def _target(name: str, config: str | None) -> NotifyTarget:
    targets = configuration.load(config).notify
    if name not in targets:
        hint = nearest(name, targets) if targets else "it has none"
        raise NotDelivered(f"there is no [notify.{name}] in the configuration; {hint}", NEVER)
    return targets[name]


# --- what is told -----------------------------------------------------------------------------------------


def headline(notification: Notification) -> str:
    """Return a notification on one line, for example "nightly failed (exit code 1) on db1"."""
    message = notification.message
    subject = _cut(one_line(message.subject), MAX_SUBJECT)
    failures, count, summary = message.failures or 1, message.count or 1, message.summary or ()
    match message.event:
        case NotifyEvent.FAILED if message.job is None and message.schedule is None:
            happened = f"{subject} are paused"
        case NotifyEvent.FAILED:
            how = outcome_in_words(message)
            often = f" {failures} times in a row" if failures > 1 else ""
            happened = f"{subject} failed{often}{f' ({how})' if how else ''}"
        case NotifyEvent.RECOVERED:
            happened = f"{subject} recovered{f' after {failures} failures' if failures > 1 else ''}"
        case NotifyEvent.SUCCEEDED | NotifyEvent.STARTED:
            happened = f"{subject} {message.event}"
        case NotifyEvent.MISSED:
            happened = f"{subject} was missed{f' {count} times' if count > 1 else ''}"
        case NotifyEvent.LATE:
            happened = f"{subject} is late"
        case NotifyEvent.SUMMARY:
            counts = ", ".join(f"{each.count} {each.event}" for each in summary)
            happened = f"{sum(each.count for each in summary)} more notifications ({counts})"
        case NotifyEvent.TEST:
            happened = f"test of [notify.{one_line(message.target)}]"
    return f"{happened} on {notification.host}"


def as_text(notification: Notification) -> str:
    """Return a notification in words, without the output."""
    message = notification.message
    lines = [f"{headline(notification)}.", ""]
    if message.event is NotifyEvent.TEST:
        lines += ["This is a test; nothing has failed.", ""]
    if message.event is NotifyEvent.SUMMARY:
        lines += [f"They exceed per_minute of [notify.{one_line(message.target)}].", ""]
    for label, value in facts_of_message(message):
        text = _local_time(value.at) if isinstance(value, Instant) else str(value)
        lines.append(f"{label + ':':10} {_cut(one_line(text), MAX_FACT)}")
    commands = []
    if message.job is not None:
        commands += [f"bgctl show {message.job}", f"bgctl logs {message.job}"]
    if message.event is NotifyEvent.SUMMARY:
        commands.append("bgctl list --state failed")
    if message.schedule is not None:
        commands.append(f"bgctl schedule history {one_line(message.schedule)}")
    if commands:
        lines += ["", "For details:", "", *(f"  {command}" for command in commands)]
    return "\n".join([*lines, ""])


def as_json(notification: Notification) -> bytes:
    """Return all of a notification as JSON, as programs get it on stdin."""
    more = {"host": notification.host, "line": headline(notification), "output": notification.output}
    return msgspec.json.encode(msgspec.to_builtins(notification.message) | more)


def as_variables(notification: Notification) -> dict[str, str]:
    """Return a notification as variables, on one line each; what does not apply is empty."""
    values = {
        name: value
        for name, value in msgspec.to_builtins(notification.message).items()
        if name != "summary"  # several lines, which are in the JSON
    }
    values |= {"host": notification.host, "line": headline(notification)}
    return {
        f"{PREFIX}{name.upper()}": "" if value is None else _cut(one_line(f"{value}"), MAX_FACT)
        for name, value in values.items()
    }


def _local_time(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- a program --------------------------------------------------------------------------------------------


def become(argv: tuple[str, ...], stdin: bytes, environ: Mapping[str, str], name: str) -> NoReturn:
    """Run a program in place of this process, so that its end is the end of the job.

    Raises:
        NotDelivered: it cannot be run.
    """
    file = os.memfd_create("notification")
    with open(file, "wb", closefd=False) as writing:
        writing.write(stdin)
    os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, 0)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; the program would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environ)  # noqa: S606 - no shell, on purpose
    except OSError as error:
        exit_code = NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_RUN
        raise NotDelivered(f"[notify.{name}] cannot run {argv[0]}: {error.strerror}", exit_code) from error


# --- mail -------------------------------------------------------------------------------------------------


def as_mail(notification: Notification, recipient: str) -> bytes:
    """Return a notification as a mail. A second delivery has the same Message-ID."""
    message = notification.message
    mail = EmailMessage(policy.default.clone(cte_type="7bit"))
    mail["To"] = recipient
    mail["Subject"] = headline(notification)
    mail["Date"] = message.at
    mail["Message-ID"] = f"<{message.id}.bgd@{re.sub(r'[^A-Za-z0-9.-]', '-', notification.host)}>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(as_text(notification) + as_quote(notification.output))
    return mail.as_bytes()


def as_quote(output: Sequence[str]) -> str:
    """Return lines of output as they follow a text; nothing if there are none."""
    if not output:
        return ""
    return "\n".join(["", "Its last lines of output:", "", *(f"  {line}".rstrip() for line in output), ""])


def _sendmail(name: str) -> str:
    found = shutil.which("sendmail", path=f"{os.environ.get('PATH', os.defpath)}:{SENDMAIL_FOLDERS}")
    if found is None:
        raise NotDelivered(
            f"[notify.{name}] needs sendmail, which is not on PATH or in {SENDMAIL_FOLDERS}: install a mail "
            "server, or a forwarder such as msmtp-mta",
            NOT_FOUND,
        )
    return found


# --- a ping -----------------------------------------------------------------------------------------------


def ping(notification: Notification, name: str, url: str) -> None:
    """Send a ping as healthchecks.io takes it: success, /start or /fail, with a text.

    Raises:
        NotDelivered: the server did not take it. The message does not quote the address, which is a secret.
    """
    request = Request(  # noqa: S310 - bgd.settings.values.secret_url allows only https, and http to this machine
        ping_url(notification, url),
        _ping_text(notification),
        {"User-Agent": f"bgd/{bgd.__version__}", "Content-Type": "text/plain; charset=utf-8"},
    )
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT)  # a socket's own timeout would begin again with each byte
    try:
        with _opener(url).open(request) as answer:
            said = answer.read(_MOST_READ)
    except HTTPError as error:
        error.close()
        is_redirect = error.code // 100 == _REDIRECTS
        hint = ", a redirect, which bgd does not follow: set url to where it leads" if is_redirect else ""
        raise NotDelivered(f"the server of [notify.{name}] answered {error.code}{hint}") from None
    except (OSError, HTTPException, UnicodeError) as error:  # UnicodeError: a part of the host is too long
        raise NotDelivered(f"the server of [notify.{name}] was not reached: {_problem(error)}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if said.startswith(b"OK ("):  # what healthchecks.io says, with status 200, if it takes no notice
        why = "it has no check with this address" if b"not found" in said else "it was pinged too often"
        raise NotDelivered(f"the server of [notify.{name}] ignored the ping: {why}")


_MOST_READ = 100  # bytes of an answer
_REDIRECTS = 3  # the first digit of their codes


def ping_url(notification: Notification, url: str) -> str:
    """Return the address for an event; `rid` says which start and end belong to the same job."""
    message = notification.message
    parts = urlsplit(url)
    queries = [parts.query]
    if message.job is not None:
        queries.append(f"rid={uuid5(NAMESPACE_DNS, f'{message.job}.bgd.{notification.host}')}")
    path = parts.path.rstrip("/") + _ping_suffix(message)
    return urlunsplit(parts._replace(path=path or "/", query="&".join(filter(None, queries))))


def _ping_suffix(message: Message) -> str:
    events = {each.event for each in message.summary or ()} or {message.event}
    if events & {NotifyEvent.FAILED, NotifyEvent.MISSED, NotifyEvent.LATE}:
        return "/fail"
    return "/start" if events == {NotifyEvent.STARTED} else ""


def _ping_text(notification: Notification) -> bytes:
    """Return a notification as text, with those of the last lines for which there is room."""
    text = as_text(notification)
    output = notification.output
    while output and len((text + as_quote(output)).encode()) > MAX_PING:
        output = output[1:]
    return (text + as_quote(output)).encode()[:MAX_PING]


def _opener(url: str) -> OpenerDirector:
    # What is sent to this machine without TLS must not pass a proxy
    proxies = ProxyHandler({}) if url.startswith("http:") else ProxyHandler()
    return build_opener(proxies, _NoRedirects, HTTPSHandler(context=ssl.create_default_context()))


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow none: the address is a secret, and the new host would learn it."""


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer within {TIMEOUT:g} seconds")


def _problem(error: Exception) -> str:
    """Return why a server was not reached, without what it sent."""
    cause = getattr(error, "reason", error)  # urllib wraps errors of sockets and of TLS
    match cause:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {cause.verify_message}"
        case ssl.SSLError():
            return f"TLS failed: {cause.reason}"
        case OSError():
            return cause.strerror or str(cause)
        case HTTPException():
            return "it does not speak HTTP"
        case _:
            return str(cause)


if __name__ == "__main__":
    sys.exit(main())
