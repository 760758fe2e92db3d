"""The words of `call`: what a function gets for them."""

from __future__ import annotations

import pytest

from tests.support import serving

SOURCE = """
raise SystemExit("bgctl must not import this module")

def f(a: int, b: "float | None" = None, *, flag: bool = False, items: list[str] = (), x: int | str = 0): ...
def plain(a, *rest): ...
def odd(a: Unknown | int, *rest): ...
@wrapped
def changed(a): ...
@bgd.job(retries=3)
def kept(a): ...

class C:
    def method(self, n: int, table: dict): ...
    @staticmethod
    def static(n: int): ...
"""
CONFIGURATION = """
[python]
path = ["{folder}/code"]
[security]
allowed_classes = ["annotated.*", "absent.*"]
"""


@pytest.fixture(scope="module")
def annotated():
    with serving(CONFIGURATION, {"code/annotated.py": SOURCE}) as running:
        yield running


@pytest.mark.parametrize(
    ("words", "args", "kwargs"),
    [
        (["f", "1", "2.5"], [1, 2.5], {}),
        (["f", "1", "None", "flag=yes"], [1, None], {"flag": True}),
        (["f", "a=7", 'items=["x"]', "x=3"], [], {"a": 7, "items": ["x"], "x": 3}),
        (["f", "1", "x=word"], [1], {"x": "word"}),
        (["f", "--args", '["1"]', "2"], ["1", 2.0], {}),
        (["f", "--kw", "a=1"], [], {"a": "1"}),
        (["C.method", "1", '{"k": 2}'], [1, {"k": 2}], {}),
        (["C.static", "1"], [1], {}),
        (["plain", "word", "b=c"], ["word", "b=c"], {}),
        (["changed", "x", "y"], ["x", "y"], {}),
    ],
)
def test_a_function_gets_what_its_annotations_ask_for(annotated, words, args, kwargs):
    function, *rest = words
    done = annotated.bgctl("call", "--hold", f"annotated:{function}", *rest)

    job = annotated.shown(done.stdout.strip())

    assert done.stderr == ""
    assert (job["args"], job["kwargs"]) == (args, kwargs)
    assert [type(each) for each in job["args"]] == [type(each) for each in args]


def test_json_refers_to_the_result_of_another_job(annotated):
    other = annotated.bgctl("submit", "--hold", "true").stdout.strip()

    done = annotated.bgctl("call", "--hold", "annotated:plain", "--args", f'[{{"$result": {other}}}]')

    job = annotated.shown(done.stdout.strip())
    assert (job["args"], job["after"]) == ([{"$result": int(other)}], [int(other)])
    refused = annotated.bgctl("call", "annotated:plain", "--kwargs", '{"a": {"$result": "1"}}')
    assert (refused.returncode, refused.stderr) == (
        1,
        """bgctl: {"$result": ID} takes the id of a job, not '1'\n""",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["f", "x1"], "argument 1 of annotated:f must be a whole number, not 'x1'"),
        (["f", "1", "nan"], "argument 2 of annotated:f must be None or a number, not 'nan'"),
        (["f", "1", "flag=maybe"], "argument flag of annotated:f must be true or false, not 'maybe'"),
        (["f", "1", "items={}"], "argument items of annotated:f must be a JSON array, not '{}'"),
        (["f", "a=1", "--kw", "a=2"], "a is given twice"),
        (["f", "b=1"], "annotated:f(a, b, flag, items, x): missing a required argument: 'a'"),
        (["kept", "1", "2"], "annotated:kept(a): too many positional arguments"),
        (["C.static", "--args", "[1, 2]"], "annotated:C.static(n): too many positional arguments"),
        (["kept", "1", "--kw", "b=1"], "annotated:kept(a): got an unexpected keyword argument 'b'"),
        (["plane"], "annotated:plane: its module defines no plane (did you mean plain?)"),
        (["C.nosuch"], "annotated:C.nosuch: its class defines no nosuch (known are method, static)"),
    ],
)
def test_a_call_that_cannot_succeed_is_refused_in_one_line(annotated, words, message):
    function, *rest = words

    done = annotated.bgctl("call", f"annotated:{function}", *rest)

    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"bgctl: {message}\n")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("annotated:plain", "it has no annotation"),
        ("annotated:odd", "it has no annotation"),
        ("absent:f", "the source of absent:f was not found here"),
    ],
)
def test_a_number_without_annotation_stays_text_and_is_named_once(annotated, target, why):
    done = annotated.bgctl("call", "--hold", target, "1", "2")

    assert annotated.shown(done.stdout.strip())["args"] == ["1", "2"]
    assert done.stderr == (
        f"bgctl: '1' is passed as text, because {why}; --args and --kwargs pass other types\n"
    )
