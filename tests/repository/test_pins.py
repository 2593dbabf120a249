"""Pins: every install has the same versions, checked by hash, and this environment has them too."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import pins
from tests.support.processes import ROOT

FILES = sorted(ROOT.glob("requirements*.txt"))
INSTALLED_APART = sorted(ROOT.glob("scripts/requirements/*.txt"))  # tools of scripts, not in .venv
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXACT = re.compile(r"==[0-9][0-9A-Za-z.]*")
WHEEL = "one-1.0"


def requirements(path: Path) -> list[Requirement]:
    """The requirements that stand in a file itself."""
    return [Requirement(line) for line in pins.pins(path.read_text())]


def closure(path: Path) -> list[Requirement]:
    """The requirements of a file and of those that it includes."""
    included = re.findall(r"^-r (\S+)$", path.read_text(), re.MULTILINE)
    return [*requirements(path), *(found for name in included for found in closure(path.parent / name))]


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def needs(found: Requirement) -> list[Requirement]:
    """What an installed package needs here."""
    lines = [Requirement(line) for line in metadata.requires(found.name) or ()]
    return [needed for needed in lines if any(applies(needed, extra) for extra in found.extras or {""})]


def declared(lines: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize("path", pins.files(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_requirement_is_pinned_to_one_version_once(path: Path) -> None:
    pinned = closure(path)
    assert [str(found) for found in pinned if not EXACT.fullmatch(str(found.specifier))] == []
    versions: dict[str, set[str]] = {}
    for found in pinned:
        versions.setdefault(canonicalize_name(found.name), set()).add(str(found.specifier))
    assert {name: specifiers for name, specifiers in versions.items() if len(specifiers) > 1} == {}


@pytest.mark.parametrize("path", pins.files(ROOT), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_pin_has_hashes(path: Path) -> None:
    """And nothing else is in the file: a line that `scripts/pins` does not know would be installed unchecked."""
    logical = path.read_text().replace("\\\n", " ").splitlines()
    lines = [line for line in logical if line and not line.startswith(("#", "-r "))]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[^ #]+==[^#]+?( +--hash=sha256:[0-9a-f]{64})+", line)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_dependencies_of_pinned_packages_are_pinned(path: Path) -> None:
    """A dependency without a pin would be whatever is newest on the day of the install."""
    pinned = [found for found in closure(path) if applies(found)]
    names = {canonicalize_name(found.name) for found in pinned}
    missing = {
        f"{found.name} needs {needed}"
        for found in pinned
        for needed in needs(found)
        if canonicalize_name(needed.name) not in names
    }
    assert missing == set()


def test_installed_versions_are_the_pinned_ones() -> None:
    wrong = [
        f"{found} but {metadata.version(found.name)} is installed"
        for path in FILES
        for found in closure(path)
        if applies(found) and f"=={metadata.version(found.name)}" != str(found.specifier)
    ]
    assert wrong == []


def test_scripts_install_nothing_without_hashes() -> None:
    """An install is by hash, or of the repository itself without an index."""
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file()]
    texts = {path.name: path.read_text() for path in [*scripts, ROOT / "examples" / "Dockerfile", ROOT / ".ci" / "run"]}
    found = [
        (name, line)
        for name, text in texts.items()
        for line in re.sub(r"\\\n|(?<=,)\n *", " ", text).splitlines()
        if re.search(r'^[^#]*(?:-m|RUN) pip .*\b(?:install|download)\b|_pip\("(?:install|download)"', line)
    ]
    assert len(found) >= 8
    assert [one for one in found if "--require-hashes" not in one[1] and "--no-index" not in one[1]] == []


def test_the_build_backend_is_pinned_once() -> None:
    [backend] = PROJECT["build-system"]["requires"]
    assert backend in {str(found) for found in requirements(ROOT / "requirements-build.txt")}


EXTRAS = {"": "requirements.txt", "cli": "requirements-cli.txt", "aws": "requirements-aws.txt",
          "tracing": "requirements-tracing.txt"}  # fmt: skip


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_accept_the_pins(extra: str) -> None:
    """`pip install tidewire[aws]` and requirements-aws.txt bring the same packages."""
    optional = PROJECT["project"]["optional-dependencies"]
    ranges = optional[extra] if extra else PROJECT["project"]["dependencies"]
    pinned = {canonicalize_name(found.name): found for found in closure(ROOT / EXTRAS[extra])}
    for line in ranges:
        wanted = Requirement(line)
        [exact] = pinned[canonicalize_name(wanted.name)].specifier
        assert exact.version in wanted.specifier, line
    own = [found for found in requirements(ROOT / EXTRAS[extra]) if applies(found)]
    needed = {canonicalize_name(one.name) for found in own for one in needs(found)}
    direct = {canonicalize_name(found.name) for found in own} - needed
    assert direct <= declared([*PROJECT["project"]["dependencies"], *ranges, *optional["aws"]])
    assert optional.keys() | {""} == EXTRAS.keys()


def test_every_import_of_the_package_is_declared() -> None:
    """An import that only another package's dependency brings breaks when that package drops it."""
    optional = PROJECT["project"]["optional-dependencies"].values()
    names = declared([*PROJECT["project"]["dependencies"], *(line for lines in optional for line in lines)])
    brought_by = metadata.packages_distributions()
    undeclared = {
        f"{path.name} imports {module}"
        for path in (ROOT / "shared").rglob("*.py")
        for module in third_party(ast.parse(path.read_text()))
        if not {canonicalize_name(name) for name in brought_by.get(module.split(".")[0], [])} & names
    }
    assert undeclared == set()


def third_party(tree: ast.AST) -> set[str]:
    """The top-level names of other projects that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names - {"tidewire"}


@pytest.mark.parametrize(
    "tags",
    ["py3-none-any", "py2.py3-none-any", "cp311-cp311-manylinux_2_28_aarch64", "cp39-abi3-manylinux2014_x86_64",
     "cp314-cp314-macosx_11_0_arm64", "cp312-cp312-musllinux_1_2_x86_64", "py3-none-win_amd64"],
)  # fmt: skip
def test_wheels_of_supported_platforms_are_kept(tags: str) -> None:
    assert pins.is_supported(f"{WHEEL}-{tags}.whl")


@pytest.mark.parametrize(
    "tags",
    ["cp310-cp310-manylinux_2_28_x86_64", "cp314-cp314t-manylinux_2_28_x86_64", "pp311-pypy311_pp73-macosx_11_0_arm64",
     "cp311-cp311-manylinux_2_28_s390x", "cp311-cp311-win32", "py2-none-any"],
)  # fmt: skip
def test_wheels_of_other_platforms_are_left_out(tags: str) -> None:
    assert not pins.is_supported(f"{WHEEL}-{tags}.whl")


def test_hashes_are_written_anew_and_comments_stay() -> None:
    text = '# Why\n-r other.txt\n\none==1.0 \\\n    --hash=sha256:old\nTwo_x==2; sys_platform == "win32"\n'
    written = pins.with_hashes(text, {("one", "1.0"): ["b", "a"], ("two-x", "2"): ["c"]})
    assert written == (
        "# Why\n-r other.txt\n\none==1.0 \\\n    --hash=sha256:a \\\n    --hash=sha256:b\n"
        'Two_x==2; sys_platform == "win32" \\\n    --hash=sha256:c\n'
    )
    assert pins.pins(written) == ["one==1.0", 'Two_x==2; sys_platform == "win32"']
    with pytest.raises(KeyError):
        pins.with_hashes("three==3\n", {})


def test_a_lock_file_gives_the_hashes_of_supported_wheels() -> None:
    lock = (
        '[[packages]]\nname = "One.x"\nversion = "1.0"\nwheels = ['
        '{ url = "https://example.com/a/One.x-1.0-py3-none-any.whl", hashes = { sha256 = "a" } },'
        '{ name = "One.x-1.0-cp39-cp39-win32.whl", url = "https://example.com/b", hashes = { sha256 = "b" } }]\n'
    )
    assert pins.read_lock(lock) == {("one-x", "1.0"): ["a"]}
