"""The blocking client is generated from the asynchronous one, and imports no event loop."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from types import FunctionType

import pytest

from bgd import AsyncClient, AsyncJob, Client, Job
from tests.client import blocking, options


@pytest.mark.parametrize("name", blocking.GENERATED)
def test_what_is_committed_is_what_would_be_generated(name):
    committed = (blocking.TARGET / f"{name}.py").read_text()

    assert committed == blocking.blocking(name), "run `make client`"


def test_the_types_of_job_options_are_what_would_be_generated():
    assert options.TARGET.read_text() == options.options(), "JobSpec or JobView has changed: `make client`"


def test_every_passage_to_replace_exists():
    sources = "".join((blocking.SOURCE / f"{name}.py").read_text() for name in blocking.GENERATED)

    assert [passage for passage in blocking.PASSAGES if passage not in sources] == []


@pytest.mark.parametrize(("one", "other"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_both_clients_have_the_same_methods_parameters_and_docstrings(one, other):
    verbs, others = verbs_of(one), verbs_of(other)

    assert verbs.keys() == others.keys()
    for name, verb in verbs.items():
        assert list(inspect.signature(verb).parameters) == list(inspect.signature(others[name]).parameters)
        assert (verb.__doc__ or "") == re.sub(r"Async(?=Client|Job)", "", others[name].__doc__ or "")
        assert not inspect.iscoroutinefunction(verb)


def test_the_blocking_client_imports_no_event_loop():
    program = "import sys, bgd; bgd.Client; bgd.run_background_job; print('asyncio' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def verbs_of(kind: type) -> dict[str, FunctionType]:
    return {name: value for name, value in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
