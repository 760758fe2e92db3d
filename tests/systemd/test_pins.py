"""`make install` takes only packages from an index that are pinned by version and hash."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT

PIN = re.compile(
    r"([A-Za-z0-9._-]+)==([^ ]+)(?: ; [^\\]+)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)


def pins():
    """Return the pinned versions by name; everything else in the file is comments."""
    text = (ROOT / "systemd/requirements.txt").read_text()
    assert re.sub("^#.*\n", "", PIN.sub("", text), flags=re.MULTILINE) == ""
    return {canonicalize_name(name): version for name, version, _ in PIN.findall(text)}


def test_everything_that_is_installed_with_bgd_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]

    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement


def test_an_installation_has_exactly_what_is_pinned(stage):
    [packages] = stage.glob("usr/local/lib/bgd/lib/python3.*/site-packages")
    found = {
        canonicalize_name(name): version
        for name, version in (
            path.name.removesuffix(".dist-info").split("-") for path in packages.glob("*.dist-info")
        )
    }

    assert found.keys() - {"pip", "bgd"} == pins().keys() - {"setuptools"}
    assert all(pins()[name] == found[name] for name in found.keys() - {"pip", "bgd"})
