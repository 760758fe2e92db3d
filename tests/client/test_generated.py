"""The blocking client is made from the asynchronous one, and imports no event loop."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from types import FunctionType

import pytest

from bgd import AsyncClient, AsyncJob, Client, Job
from setup import MODULES, PASSAGES, SOURCE, TARGET
from tests.client import options
from tests.support import ROOT


@pytest.mark.parametrize("name", MODULES)
def test_a_function_of_the_blocking_client_stands_in_the_line_of_its_source(name):
    source, made = ((folder / f"{name}.py").read_text().splitlines() for folder in (SOURCE, TARGET))
    definition = re.compile(r" *(?:async )?def (\w+)")

    assert len(made) == len(source)
    for line, other in zip(source, made, strict=True):
        names = [definition.match(text) for text in (line, other)]
        assert len({name and name[1].replace("__a", "__") for name in names}) == 1, line
    assert not re.search(r"\basync\b|\bawait\b|Async", "\n".join(made).replace("async_/", ""))


def test_a_checkout_is_built_by_setup_alone(tmp_path):
    for path in ("setup.py", *(f"bgd/client/async_/{name}.py" for name in MODULES)):
        tmp_path.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    tmp_path.joinpath("bgd/client/blocking").mkdir()
    tmp_path.joinpath("bgd/client/blocking/job.py").write_text("of an earlier commit")

    subprocess.run([sys.executable, "-I", "-S", tmp_path / "setup.py"], cwd="/", check=True)

    for name in MODULES:
        path = f"bgd/client/blocking/{name}.py"
        assert (tmp_path / path).read_text() == (ROOT / path).read_text()


def test_the_types_of_job_options_are_what_would_be_generated():
    assert options.TARGET.read_text() == options.options(), "JobSpec or JobView has changed: `make client`"


def test_every_passage_to_replace_exists():
    sources = "".join((SOURCE / f"{name}.py").read_text() for name in MODULES)

    assert [passage for passage in PASSAGES if passage not in sources] == []


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
