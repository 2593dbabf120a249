"""The build for Netlify: the targets of its rewrites."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.netlify_build import NO_FUNCTIONS, SITE, BuildError, main, redirects, stage
from tests.support.processes import ROOT

API = "https://abc123.execute-api.eu-central-1.amazonaws.com"
PREVIEWS = "https://previews.example.com/{stage}"
REVIEW = {"CONTEXT": "deploy-preview", "REVIEW_ID": "7", "BRANCH": "fix/ring", "TIDEWIRE_API_URL": API}


def test_production_leads_to_the_deployed_functions() -> None:
    assert redirects({"CONTEXT": "production", "TIDEWIRE_API_URL": f"{API}/"}) == f"/api/* {API}/api/:splat 200!\n"


def test_signed_rewrites_name_the_variable_not_its_value() -> None:
    """The rules name the variable that has the secret; the secret is in no file of the site."""
    rules = redirects({"TIDEWIRE_API_URL": API, "REALTIME_NETLIFY_SECRET": "hunter2"})
    assert rules == f"/api/* {API}/api/:splat 200! signed=REALTIME_NETLIFY_SECRET\n"


def test_a_preview_leads_to_functions_of_its_own() -> None:
    rules = redirects({**REVIEW, "TIDEWIRE_PREVIEW_API_URL": PREVIEWS})
    assert rules == "/api/* https://previews.example.com/pr-7/api/:splat 200!\n"


def test_a_preview_without_functions_does_not_use_productions() -> None:
    """Its API answers 404 instead."""
    rules = redirects(REVIEW)
    assert API not in rules
    assert rules.splitlines()[-1] == f"/api/* /{NO_FUNCTIONS} 404!"


def test_a_preview_of_productions_address_stops_the_build() -> None:
    with pytest.raises(BuildError, match=r"^TIDEWIRE_PREVIEW_API_URL: is production's"):
        redirects({**REVIEW, "TIDEWIRE_PREVIEW_API_URL": f"{API}/"})


@pytest.mark.parametrize(
    ("branch", "name"),
    [("staging", "staging"), ("Fix/Ring_2", "fix-ring-2"), ("-" * 9 + "a" * 90, "a" * 32), ("über", "ber")],
)
def test_a_branch_becomes_a_stage_that_aws_accepts(branch: str, name: str) -> None:
    """Stages are part of keys in Redis and of names on AWS."""
    assert stage({"CONTEXT": "branch-deploy", "BRANCH": branch}) == name
    assert re.fullmatch(r"[a-z0-9-]{1,32}", name)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TIDEWIRE_API_URL": "http://abc.example"},
        {"TIDEWIRE_API_URL": "https://"},
        {"TIDEWIRE_API_URL": "abc.example"},
        {"TIDEWIRE_API_URL": f"{API} /api/* https://evil.example"},
        {"TIDEWIRE_API_URL": f"{API}?a=b"},
        {"CONTEXT": "branch-deploy", "TIDEWIRE_PREVIEW_API_URL": PREVIEWS},
    ],
)
def test_a_wrong_address_or_branch_stops_the_build(environ: dict[str, str]) -> None:
    with pytest.raises(BuildError, match=r"^(TIDEWIRE_API_URL|BRANCH): "):
        redirects(environ)


def test_the_build_publishes_the_site_and_keeps_the_source(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    main({"TIDEWIRE_API_URL": API}, folder)
    (folder / "left-over.html").touch()
    main({"TIDEWIRE_API_URL": API}, folder)
    made = {path.relative_to(folder) for path in folder.rglob("*")}
    assert made == {path.relative_to(SITE) for path in SITE.rglob("*")} | {Path("_redirects"), Path(NO_FUNCTIONS)}
    assert not (SITE / "_redirects").exists()


def test_a_build_that_cannot_be_right_fails_with_one_line() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "netlify_build.py")]
    done = subprocess.run(command, env={"CONTEXT": "production"}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "netlify_build: TIDEWIRE_API_URL: is not set: set it to the address of the deployed functions\n"
    )
