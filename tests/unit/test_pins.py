"""Pins: every install is the same install, and what is installed here is what is pinned."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import ROOT

FILES = sorted(ROOT.glob("requirements*.txt"))
EXACT = re.compile(r"==[0-9][0-9A-Za-z.]*")


def requirements(path: Path) -> list[Requirement]:
    """The requirements that stand in a file itself."""
    lines = [line.partition(" #")[0].strip() for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def closure(path: Path) -> list[Requirement]:
    """The requirements of a file and of those that it includes."""
    included = re.findall(r"^-r (\S+)$", path.read_text(), re.MULTILINE)
    return [*requirements(path), *(found for name in included for found in closure(path.parent / name))]


def applies(requirement: Requirement, extra: str = "") -> bool:
    environment = {**default_environment(), "extra": extra}
    return requirement.marker is None or requirement.marker.evaluate(environment)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_every_requirement_is_pinned_to_one_version_once(path: Path) -> None:
    pinned = closure(path)
    assert [str(found) for found in pinned if not EXACT.fullmatch(str(found.specifier))] == []
    versions: dict[str, set[str]] = {}
    for found in pinned:
        versions.setdefault(canonicalize_name(found.name), set()).add(str(found.specifier))
    assert {name: specifiers for name, specifiers in versions.items() if len(specifiers) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_what_a_pinned_package_needs_is_pinned_too(path: Path) -> None:
    """A dependency without a pin would be whatever is newest on the day of the install."""
    pinned = [found for found in closure(path) if applies(found)]
    names = {canonicalize_name(found.name) for found in pinned}
    missing = set()
    for found in pinned:
        extras = found.extras or {""}
        for line in metadata.requires(found.name) or ():
            needed = Requirement(line)
            if any(applies(needed, extra) for extra in extras) and canonicalize_name(needed.name) not in names:
                missing.add(f"{found.name} needs {line}")
    assert missing == set()


def test_what_is_installed_is_what_is_pinned() -> None:
    wrong = [
        f"{found} but {metadata.version(found.name)} is installed"
        for path in FILES
        for found in closure(path)
        if applies(found) and f"=={metadata.version(found.name)}" != str(found.specifier)
    ]
    assert wrong == []
