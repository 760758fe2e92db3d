"""The daemon's own log: one line for each message, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re

import pytest

from bgd.__main__ import LOG_FORMATS, set_up_log


@pytest.fixture(autouse=True)
def restored_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def report(capsys, style, level="info"):
    """Log a message at every level; return the lines on stderr."""
    set_up_log(level, style)
    for said in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("bgd.part"), said)("about %s", said)
    return capsys.readouterr().err.splitlines()


def test_text_message_is_one_line_with_time_and_level(capsys):
    lines = report(capsys, "text")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info: about info", lines[0])
    assert len(lines) == 3


def test_json_message_is_one_document_on_one_line(capsys):
    lines = [json.loads(line) for line in report(capsys, "json")]
    assert [line["level"] for line in lines] == ["info", "warning", "error"]
    assert lines[0].keys() == {"time", "level", "part", "message"}
    assert (lines[0]["part"], lines[0]["message"]) == ("bgd.part", "about info")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_messages_below_the_level_are_left_out(capsys, level, count):
    assert len(report(capsys, "text", level)) == count


@pytest.mark.parametrize("style", LOG_FORMATS)
def test_file_name_that_is_not_utf_8_can_be_logged(capsys, style):
    set_up_log("info", style)
    logging.getLogger("bgd").error("no %s", "caf\udce9")
    assert "caf\\" in capsys.readouterr().err


def test_exception_in_json_is_one_line_with_its_traceback(capsys):
    set_up_log("info", "json")
    try:
        int("broken")
    except ValueError:
        logging.getLogger("bgd").exception("it broke")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["message"]
