"""What the worker calls, and what it refuses to call."""

from __future__ import annotations

import json

import pytest

SERVICES = """
import collections
import functools
import os
import sqlite3
import subprocess
import weakref
from subprocess import run
from lib import Tool, Base, Meta, Shared, helper, borrowed

shortcut = os.path.join

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return ["wrapped", function(*args, **kwargs)]
    return wrapper

class Service(Base):
    prefix = "instance"
    count = 3

    class Inner:
        pass

    def method(self, *args, **kwargs):
        return [self.prefix, list(args), kwargs]

    @classmethod
    def of_class(cls, x):
        return [cls.__name__, x]

    @staticmethod
    def static(x):
        return ["static", x]

    @decorated
    def with_decorator(self):
        return self.prefix

    async def coroutine(self, x):
        import asyncio
        await asyncio.sleep(0)
        return ["async", x]

    @property
    def attribute(self):
        return 1

    def _private(self):
        return 1

    taken = borrowed
    system = __import__("os").system
    kept = staticmethod(os.system)
    of_class_of_another = classmethod(borrowed)
    prepared = functools.partial(os.system, "true")
    prepared_method = functools.partialmethod(borrowed)
    library = os

    class Descriptor:
        def __get__(self, instance, owner):
            return os.system

    reached = Descriptor()

    # what a class keeps to use it
    execute = sqlite3.connect(":memory:").execute
    join = "-".join
    weak = weakref.ref(subprocess)
    lookup = {}.get
    own = functools.partial(method, None)
    of_another = collections.OrderedDict().pop
    cached_system = functools.lru_cache(os.system)

    class Called:
        def __call__(self, *args):
            return "called"

        def own(self):
            return "called"

    called = Called()
    bound = Called().own
    made = staticmethod(Called())

    @functools.lru_cache
    def cached(self):
        return self.prefix

    @classmethod
    @decorated
    def decorated_of_class(cls):
        return cls.__name__

class Shadowed:
    # each of its objects puts something else in the place of its methods
    def __init__(self):
        self.method = os.system
        self.static = os.system

    def method(self, *args):
        return ["its own", list(args)]

    @staticmethod
    def static(*args):
        return ["its own", list(args)]

    def __getattribute__(self, name):
        return os.system if name == "read" else super().__getattribute__(name)

    def read(self, *args):
        return ["its own", list(args)]

class UnderMeta(metaclass=Meta):
    @classmethod
    def of_class(cls, *args):
        return ["its own", list(args)]

class Instance:
    def __call__(self):
        return 1

    def method(self):
        return 1

class Endless:
    def method(self):
        pass

    method.__wrapped__ = method

class Heir(Shared):
    pass

class Names(dict):
    pass

class Child(Service):
    pass

class NeedsArguments:
    def __init__(self, x):
        pass

    def method(self):
        pass

    @classmethod
    def of_class(cls):
        return "no instance"

def function(x=1):
    return ["function", x]

def file():
    return "not under a ligature"

async def coroutine_function(x):
    return ["async", x]

@functools.lru_cache
def cached(x):
    return x

@decorated
def decorated_function():
    return "inner"

def outer():
    def inner():
        pass
    return inner

returned = outer()
instance = Instance()
prepared = functools.partial(os.system, "true")
value = 3
alias = function
Alias = Service

def _private():
    pass

def __getattr__(name):
    if name == "lazy":
        return subprocess.run
    raise AttributeError(name)

# what would fool a check of names alone
helper.__module__, helper.__qualname__ = __name__, "helper"
Tool.__module__ = __name__
"""

LIBRARY = """
import functools
import os

class Base:
    def inherited(self):
        return ["inherited", type(self).__name__]

def common(self):
    return ["common", type(self).__name__]

class Shared:
    system = os.system
    kept = staticmethod(os.system)
    prepared = functools.partial(os.system, "true")
    shared = common

class Meta(type):
    @property
    def of_class(cls):
        return os.system

    def of_meta(cls):
        return 1

class Tool:
    def method(self):
        return "out of reach"

def helper():
    return "out of reach"

def borrowed(self):
    return "out of reach"
"""


@pytest.fixture(autouse=True)
def _modules(module):
    module("app.services", SERVICES)
    module("lib", LIBRARY)


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "value"),
    [
        ("Service.method", [1, "two"], {"x": None}, ["instance", [1, "two"], {"x": None}]),
        ("Service.of_class", [1], {}, ["Service", 1]),
        ("Service.static", [], {"x": 2}, ["static", 2]),
        ("Service.with_decorator", [], {}, ["wrapped", "instance"]),
        ("Service.coroutine", [3], {}, ["async", 3]),
        ("Service.cached", [], {}, "instance"),
        ("Service.decorated_of_class", [], {}, ["wrapped", "Service"]),
        ("Service.inherited", [], {}, ["inherited", "Service"]),
        ("Child.method", [], {}, ["instance", [], {}]),
        ("Child.of_class", [4], {}, ["Child", 4]),
        ("NeedsArguments.of_class", [], {}, "no instance"),
        ("Shadowed.method", ["true"], {}, ["its own", ["true"]]),
        ("Shadowed.static", ["true"], {}, ["its own", ["true"]]),
        ("Shadowed.read", ["true"], {}, ["its own", ["true"]]),
        ("UnderMeta.of_class", ["true"], {}, ["its own", ["true"]]),
        ("Heir.shared", [], {}, ["common", "Heir"]),
        ("Names.copy", [], {}, {}),
        ("function", [], {}, ["function", 1]),
        ("coroutine_function", [5], {}, ["async", 5]),
        ("cached", [6], {}, 6),
        ("decorated_function", [], {}, ["wrapped", "inner"]),
    ],
)
def test_every_kind_of_callable_is_called(call, target, args, kwargs, value):
    run = call(f"app.services:{target}", *args, **kwargs)

    assert run.told == {"ok": value}
    assert run.code == 0


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("run", "app.services:run is another name of subprocess:run: allow and call that"),
        ("shortcut", "app.services:shortcut is another name of posixpath:join"),
        ("alias", "app.services:alias is another name of app.services:function"),
        ("Alias.method", "app.services:Alias is another name of app.services:Service"),
        ("Base.inherited", "app.services:Base is another name of lib:Base"),
        (
            "returned",
            "app.services:returned is app.services:outer.<locals>.inner, which cannot be called by",
        ),
        ("helper", "app.services:helper is defined in lib"),
        ("Tool.method", "app.services:Tool.method is defined in lib"),
        ("Service.taken", "app.services:Service.taken is defined in lib"),
        ("Service.system", "app.services:Service.system is a builtin_function_or_method, not a function"),
        ("Service.kept", "app.services:Service.kept is a builtin_function_or_method, not a function"),
        ("Service.execute", "app.services:Service.execute is a builtin_function_or_method, not a function"),
        ("Service.join", "app.services:Service.join is a builtin_function_or_method, not a function"),
        ("Service.weak", "app.services:Service.weak is a"),
        ("Service.lookup", "app.services:Service.lookup is a builtin_function_or_method, not a function"),
        ("Service.own", "app.services:Service.own is a partial, not a function with code of its own"),
        ("Service.of_another", "app.services:Service.of_another is a builtin_function_or_method, not"),
        ("Service.cached_system", "app.services:Service.cached_system is a builtin_function_or_method, not"),
        ("Service.called", "app.services:Service.called is a Called, not a function with code of its own"),
        ("Service.made", "app.services:Service.made is a Called, not a function with code of its own"),
        ("Service.bound", "app.services:Service.bound is a method, not a function with code of its own"),
        ("Service.of_class_of_another", "app.services:Service.of_class_of_another is defined in lib"),
        (
            "Service.prepared",
            "app.services:Service.prepared is a partial, not a function with code of",
        ),
        ("Service.prepared_method", "app.services:Service.prepared_method is not a method"),
        ("Service.library", "app.services:Service.library is not a method"),
        ("Service.reached", "app.services:Service.reached is not a method"),
        ("Heir.system", "app.services:Heir.system is a builtin_function_or_method, not a function"),
        ("Heir.kept", "app.services:Heir.kept is a builtin_function_or_method, not a function"),
        ("Heir.prepared", "app.services:Heir.prepared is a partial, not a function with code of its own"),
        ("Service.attribute", "app.services:Service.attribute is not a method"),
        ("Service.count", "app.services:Service.count is not a method"),
        ("Service.Inner", "app.services:Service.Inner is not a method"),
        ("Service", "app.services:Service is a class: name a method too"),
        ("subprocess", "app.services:subprocess is not a function"),
        ("subprocess.run", "app.services:subprocess is not a class"),
        ("function.method", "app.services:function is not a class"),
        ("value", "app.services:value is not a function"),
        ("instance", "app.services:instance is not a function"),
        ("instance.method", "app.services:instance is not a class"),
        ("prepared", "app.services:prepared is not a function"),
        ("os", "app.services:os is not a function"),
        ("os.system", "app.services:os is not a class"),
        ("lazy", "app.services:lazy is another name of subprocess:run"),
        ("Endless.method", "app.services:Endless.method is wrapped around itself"),
    ],
)
def test_an_object_that_is_not_defined_under_its_name_is_refused(call, target, why):
    run = call(f"app.services:{target}")

    assert run.told["refused"].startswith(why)
    assert run.log == f"refused: {run.told['refused']}\n"
    assert run.code == 1


@pytest.mark.parametrize(
    ("name", "method"), [("_private", None), ("Service", "_private"), ("Service", "__init__")]
)
def test_private_names_are_refused_before_any_import(worker, tmp_path, name, method):
    job = {"module": "app.missing", "name": name, "method": method, "arguments": {}, "path": [str(tmp_path)]}

    run = worker("any:thing", stdin=json.dumps(job).encode())

    assert "begin with an underscore" in run.told["refused"]


def test_worker_program_itself_is_not_a_module_of_the_job(call):
    assert "worker program" in call("__main__:main").told["refused"]


@pytest.mark.parametrize(
    ("target", "kind", "words"),
    [
        ("app.services:Missing.method", "AttributeError", "module 'app.services' has no 'Missing'"),
        ("app.services:Service.missing", "AttributeError", "app.services:Service has no method 'missing'"),
        ("app.services:service.method", "AttributeError", "has no 'service': did you mean Service?"),
        ("app.services:Service.methods", "AttributeError", "has no method 'methods': did you mean method?"),
        ("app.services:Service.inherit", "AttributeError", "no method 'inherit': did you mean inherited?"),
        ("app.services:ﬁle", "AttributeError", "module 'app.services' has no 'ﬁle'"),
        ("app.services:FUNCTION", "AttributeError", "module 'app.services' has no 'FUNCTION'"),
        ("app.services:UnderMeta.of_meta", "AttributeError", "UnderMeta has no method 'of_meta'"),
        ("app.services:UnderMeta.mro", "AttributeError", "UnderMeta has no method 'mro'"),
        ("app.services:Service.static", "TypeError", "missing 1 required positional argument: 'x'"),
    ],
)
def test_a_missing_name_is_an_error_that_names_it_and_that_no_retry_mends(call, target, kind, words):
    run = call(target)

    assert run.final_error["type"] == kind
    assert words in run.final_error["message"]
    assert run.code == 1


def test_a_class_that_cannot_be_made_without_arguments_is_an_error_that_no_retry_mends(call):
    error = call("app.services:NeedsArguments.method").final_error

    assert error["type"] == "TypeError"
    assert "missing 1 required positional argument: 'x'" in error["message"]


@pytest.mark.parametrize("wrong", ["len(5)", "1 / 0", "import not_installed"])
def test_an_error_while_the_object_is_made_may_be_retried(call, module, wrong):
    module("maker", f"class Made:\n    def __init__(self):\n        {wrong}\n    def method(self): pass\n")

    assert call("maker:Made.method").told.keys() == {"error"}


ADDS_AN_ARGUMENT = """
import functools

def with_session(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function("session", *args)
    return wrapper

@with_session
def work(session, x):
    return len(x)

class Work:
    @with_session
    def work(session, self, x):
        return len(x)
"""


@pytest.mark.parametrize("target", ["adding:work", "adding:Work.work"])
def test_a_type_error_in_a_function_whose_decorator_adds_arguments_may_be_retried(call, module, target):
    module("adding", ADDS_AN_ARGUMENT)

    assert call(target, [1, 2]).told == {"ok": 2}
    assert "has no len()" in call(target, 5).error["message"]


def test_arguments_that_do_not_fit_are_an_error_that_no_retry_mends(call, module):
    module("odd", "def function(x, *, y=1):\n    if x:\n        len(5)\n    return function(1, 2, 3)\n")

    assert "unexpected keyword argument 'z'" in call("odd:function", 1, z=2).final_error["message"]
    for fits in (1, 0):  # these raise within the call
        assert call("odd:function", fits).error["type"] == "TypeError"


@pytest.mark.parametrize("missing", ["nowhere", "nowhere.services", "app.nowhere"])
def test_missing_module_is_an_error_that_names_the_searched_path(call, tmp_path, missing):
    run = call(f"{missing}:function")

    assert run.final_error["type"] == "ModuleNotFoundError"
    assert f"No module named '{missing if 'app' in missing else 'nowhere'}'" in run.final_error["message"]
    assert f"on the path {tmp_path}:" in run.final_error["message"]
    assert "[python] path" in run.final_error["message"]


def test_module_that_misses_another_is_an_error_that_names_both(call, module):
    module("needy", "import app.services\nimport not_installed\ndef function(): pass")

    run = call("needy:function")

    assert run.final_error["type"] == "ModuleNotFoundError"
    assert run.final_error["message"].startswith("No module named 'not_installed', which needy needs")
    assert 'needy.py", line 2' in run.final_error["traceback"]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("from app.services import nothing", "ImportError"),
        ("raise ImportError('no driver')", "ImportError"),
        ("def (", "SyntaxError"),
        ("if True:\npass", "IndentationError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_an_error_that_no_retry_mends(call, module, source, kind):
    module("broken", source)

    assert call("broken:function").final_error["type"] == kind


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("1 / 0", "ZeroDivisionError"),  # it might as well be a server that does not answer
        ("def function():\n    import not_installed", "ModuleNotFoundError"),
        ("def function():\n    exec('def (')", "SyntaxError"),
    ],
)
def test_another_error_of_a_module_and_one_of_its_code_may_be_retried(call, module, source, kind):
    module("passing", source)

    assert call("passing:function").error["type"] == kind


@pytest.mark.parametrize(
    ("target", "entry", "value"),
    [
        ("Service.method", "app.services.Service", ["instance", [], {}]),
        ("Service.inherited", "app.services.Service.inherited", ["inherited", "Service"]),
        ("Service.inherited", "lib.Base", ["inherited", "Service"]),
        ("Service.inherited", "lib.Base.inherited", ["inherited", "Service"]),
        ("Service.inherited", "lib.*", ["inherited", "Service"]),
        ("Child.method", "app.services.*", ["instance", [], {}]),
        ("Names.copy", "app.services.Names.copy", {}),
        ("function", "app.services.*", ["function", 1]),
    ],
)
def test_method_runs_if_its_class_or_name_is_allowed(worker, target, entry, value):
    assert worker(f"app.services:{target}", allowed=[entry]).told == {"ok": value}


@pytest.mark.parametrize(
    ("target", "entry", "defining"),
    [
        ("Service.inherited", "app.services.Service", "lib.Base"),
        ("Service.inherited", "app.services.*", "lib.Base"),
        ("Service.inherited", "app.services.Service.method", "lib.Base"),
        ("Child.method", "app.services.Child", "app.services.Service"),
        ("Child.inherited", "app.services.*", "lib.Base"),
        ("Names.copy", "app.services.Names", "builtins.dict"),
    ],
)
def test_inherited_method_is_refused_unless_an_entry_covers_it(worker, target, entry, defining):
    told = worker(f"app.services:{target}", allowed=[entry]).told

    assert told["refused"].startswith(f"app.services.{target} is inherited from {defining}, which is not in")
    assert f'add "app.services.{target}" there, or "{defining}"' in told["refused"]


def test_entry_of_a_class_in_a_module_does_not_allow_a_method_that_is_spelled_alike(worker, module):
    module("package/__init__", "class services:\n def Report(self): return 'of the package'\n")
    module("package/services", "class Report:\n def run(self): return 'of the module'\n")
    entry = "package.services.Report"

    assert worker("package.services:Report.run", allowed=[entry]).told == {"ok": "of the module"}
    refused = worker("package:services.Report", allowed=[entry]).told["refused"]
    assert refused.startswith("package:services.Report is not in [security] allowed_classes")
    assert f'"{entry}" means package.services:Report: add "package.services" there' in refused
    for wider in ("package.services", "package.*"):
        assert worker("package:services.Report", allowed=[entry, wider]).told == {"ok": "of the package"}


def test_entry_of_a_method_allows_it_if_no_module_has_the_name_of_its_class(worker, module):
    module("package/__init__", "class Report:\n def run(self): return 'run'\n")

    assert worker("package:Report.run", allowed=["package.Report.run"]).told == {"ok": "run"}


def test_base_class_that_only_claims_to_be_of_an_allowed_module_is_refused(worker, module):
    module(
        "app.made",
        "import lib\n"
        "def foreign(self): return 'out of reach'\n"
        "foreign = type(foreign)(foreign.__code__, vars(lib), 'foreign')\n"
        "Made = type('Made', (), {'foreign': foreign})\n"
        "class Own(Made): pass\n",
    )

    assert worker("app.made:Own.foreign", allowed=["app.made.*"]).told == {
        "refused": "app.made:Own.foreign is defined in lib: allow and call that"
    }


def test_method_taken_from_a_class_in_c_is_not_a_method_of_the_class_that_holds_it(worker, module):
    module("app.kept", "class Kept(dict):\n    take = dict.pop\n")

    told = worker("app.kept:Kept.take", allowed=["app.kept.*"]).told

    assert told["refused"].startswith("app.kept:Kept.take is a method_descriptor, not a function")
