"""The files for a forge and its visitors: workflows, templates, policies. They are valid, and name what exists."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tidewire import __version__

from scripts.release_notes import ReleaseError, read_version, release_notes
from tests.support.processes import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PAGES = [
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CODE_OF_CONDUCT.md",
    GITHUB / "PULL_REQUEST_TEMPLATE.md",
]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PINNED = re.compile(r"uses: (?:\./\S+|[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)")
MANIFESTS = {
    "pip": "requirements*.txt",
    "npm": "package.json",
    "docker": "Dockerfile",
    "github-actions": ".github/workflows/*.yml",
}
INPUTS = {"input", "dropdown", "textarea", "checkboxes"}


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(path)["jobs"]
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(path: Path) -> None:
    """A tag can be moved to other code; the comment has the version for readers and for Dependabot."""
    used = [line.strip().removeprefix("- ") for line in path.read_text().splitlines() if "uses:" in line]
    assert used
    assert [line for line in used if not PINNED.fullmatch(line)] == []
    for line in used:
        if "./" in line.split()[1][:2]:
            assert (ROOT / line.split()[1]).is_file(), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_scripts_that_exist(path: Path) -> None:
    commands = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    assert commands
    for line in commands:
        program, *arguments = shlex.split(line)
        if "/" in program:
            assert (ROOT / program).stat().st_mode & 0o111, line
        elif program == "python":
            assert (ROOT / arguments[0]).is_file(), line
        else:
            assert program in ("mkdir", "gh"), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_few_permissions(path: Path) -> None:
    """Read access by default; a job that writes does nothing else, and checks nothing out."""
    assert load(path)["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        assert name in job.get("needs", name) or job["needs"], name
        if "permissions" in job:
            assert not any("actions/checkout" in step.get("uses", "") for step in job["steps"]), name
        if "steps" in job:
            assert job["timeout-minutes"] <= 90, name


def test_ci_covers_the_oldest_and_newest_python() -> None:
    supported = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    found = jobs(GITHUB / "workflows" / "ci.yml")
    assert PROJECT["requires-python"] == f">={supported[0]}"
    for job in found.values():
        assert job["strategy"]["matrix"]["python"] == [supported[0], supported[-1]]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in found.items()}
    assert runs == {"linux": [".ci/run"], "macos": ["scripts/test"]}


def test_a_release_is_tested_before_it_is_published() -> None:
    found = jobs(GITHUB / "workflows" / "release.yml")
    assert set(found["publish"]["needs"]) == {"test", "build"}
    assert found["publish"]["permissions"] == {"id-token": "write"}
    assert found["release"]["needs"] == "publish"
    triggers = yaml.load((GITHUB / "workflows" / "release.yml").read_text(), yaml.BaseLoader)["on"]  # noqa: S506 — it makes strings only, and leaves `on` one
    assert triggers == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_valid(path: Path) -> None:
    """GitHub ignores a form that breaks its schema."""
    form = load(path)
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels", "title"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= INPUTS
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids))
    for field in fields:
        assert field["attributes"]["label"]
        if "options" in field["attributes"]:
            assert len(field["attributes"]["options"]) == len({str(one) for one in field["attributes"]["options"]})


def test_dependabot_updates_every_kind_of_pin() -> None:
    entries = load(GITHUB / "dependabot.yml")["updates"]
    assert {entry["package-ecosystem"] for entry in entries} == MANIFESTS.keys()
    folders: set[str] = set()
    for entry in entries:
        for folder in entry.get("directories", [entry.get("directory")]):
            pattern = MANIFESTS[entry["package-ecosystem"]]
            place = ROOT / folder.lstrip("/")
            assert list(place.glob(pattern)) or (place.name == "requirements" and list(place.glob("*.txt"))), folder
            folders |= {folder} if entry["package-ecosystem"] == "pip" else set()
    assert folders == {"/", "/bench", "/scripts/requirements"}


def test_pre_commit_runs_the_commands_of_the_checks() -> None:
    [repository] = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local", "a hook of another repository would have a pin of its own"
    checks = (ROOT / "scripts" / "check").read_text()
    for hook in repository["hooks"]:
        command = hook["entry"].removesuffix(" --force-exclude")
        path = re.search(r"\btests/\S+", command)
        assert (path is not None and (ROOT / path[0]).is_file()) or command in checks, hook["id"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_and_names_that_exist(page: Path) -> None:
    """A path in backticks exists; a name that a sentence places `in` a file is there."""
    text = page.read_text()
    paths = re.findall(r"`((?:shared|tests|scripts|docs|functions|bench|examples|\.ci|\.github)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for names, path in re.findall(r"((?:`\w+`(?: or |, )?)+) (?:in|of) `([\w/.]+\.py)`", text):
        for name in re.findall(r"\w+", names.replace(" or ", " ")):
            assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} in {path}"


def test_no_page_names_a_person_or_a_made_up_address() -> None:
    for page in [*PAGES, *FORMS]:
        assert re.findall(r"[\w.+-]+@[\w-]+\.\w+|example\.(?:com|org)", page.read_text()) == []


def test_editors_use_the_line_length_of_the_linter() -> None:
    config = (ROOT / ".editorconfig").read_text()
    length = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
    assert f"max_line_length = {length}" in config
    assert config.startswith("root = true\n")


def test_the_current_version_can_be_released() -> None:
    assert read_version(ROOT) == __version__
    notes = release_notes(f"v{__version__}", __version__, (ROOT / "CHANGELOG.md").read_text())
    assert "\n## " not in notes


CHANGELOG = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- A.

## [0.1.0] - 2026-11-30

- B.
"""


def test_release_notes_are_one_section() -> None:
    assert release_notes("v0.2.0", "0.2.0", CHANGELOG) == "### Added\n\n- A."
    assert release_notes("v0.1.0", "0.1.0", CHANGELOG) == "- B."


@pytest.mark.parametrize(
    ("tag", "version", "changelog"),
    [
        ("v0.2.1", "0.2.0", CHANGELOG),
        ("0.2.0", "0.2.0", CHANGELOG),
        ("v0.3.0", "0.3.0", CHANGELOG),
        ("v0.2.0", "0.2.0", CHANGELOG.replace(" - 2026-12-01", "")),
        ("v0.2.0", "0.2.0", CHANGELOG.replace("### Added\n\n- A.\n\n", "")),
    ],
    ids=["other version", "no v", "not in the changelog", "no date", "empty"],
)
def test_a_wrong_tag_is_not_released(tag: str, version: str, changelog: str) -> None:
    with pytest.raises(ReleaseError):
        release_notes(tag, version, changelog)
