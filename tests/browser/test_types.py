"""The type declarations, compiled by tsc under the strictest options."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.browser.javascript import SITE, SOURCES, modules_in, run
from tests.repository.docs.kinds import of_kind
from tests.repository.docs.markdown import Block

STRICT = {
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noUncheckedIndexedAccess": True,
    "noUnusedLocals": True,
    "noPropertyAccessFromIndexSignature": True,
    "verbatimModuleSyntax": True,
    "isolatedModules": True,
    "skipLibCheck": False,  # checks our declarations too
    "noEmit": True,
    "target": "ES2022",
    "types": [],
}
BROWSER = ["ES2022", "DOM", "DOM.Iterable"]
RESOLUTIONS = {
    "bundler": {"module": "ESNext", "moduleResolution": "bundler"},
    "nodenext": {"module": "NodeNext", "moduleResolution": "nodenext"},
}


@pytest.fixture(params=["bundler", pytest.param("nodenext", marks=pytest.mark.full)])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a copy of the client, for one module resolution."""
    shutil.copytree(SITE, tmp_path / "site")
    (tmp_path / "resolution.json").write_text(json.dumps(RESOLUTIONS[request.param]))
    return modules_in(tmp_path)


def compile_in(project: Path, source: str, **options: Any) -> str:
    """The errors of tsc in this file, "" if there are none."""
    shutil.copy(SOURCES / source, project)
    resolution = json.loads((project / "resolution.json").read_text())
    settings = {"compilerOptions": {**STRICT, **resolution, **options}, "files": [source]}
    (project / "tsconfig.json").write_text(json.dumps(settings))
    done = run("tsc", "--project", project, cwd=project)
    assert bool(done.stdout) == (done.returncode != 0), done.stderr
    return done.stdout


def test_an_application_without_the_dom_compiles(project: Path) -> None:
    """Node and workers: the client has its own types for a URL, a signal and a storage."""
    assert compile_in(project, "consumer.ts", lib=["ES2022"]) == ""


def test_an_application_with_the_dom_compiles(project: Path) -> None:
    for source in ("consumer.ts", "consumer-dom.ts"):
        assert compile_in(project, source, lib=BROWSER) == ""


def test_a_react_component_compiles(project: Path) -> None:
    options = {"lib": BROWSER, "jsx": "react-jsx", "skipLibCheck": True}  # React's declarations are not ours to check
    assert compile_in(project, "consumer-react.tsx", **options) == ""


def test_the_javascript_matches_its_types(tmp_path: Path) -> None:
    """The compiler checks the JavaScript by its JSDoc comments."""
    shutil.copytree(SITE, modules_in(tmp_path) / "site")
    javascript = {
        "allowJs": True,
        "checkJs": True,
        "allowImportingTsExtensions": True,
        "lib": [*BROWSER, "ES2023"],
    }
    settings = {"strict": True, "noEmit": True, "types": [], "target": "ES2022", "skipLibCheck": True}
    options = {**settings, **RESOLUTIONS["bundler"], **javascript}
    files = ["site/realtime.js", "site/react.js", "site/console.js"]
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": files}))
    done = run("tsc", "--project", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", of_kind("typescript"), ids=str)
def test_a_typescript_block_compiles(tmp_path: Path, block: Block) -> None:
    """In the folder of the client, as its imports assume."""
    shutil.copytree(SITE, modules_in(tmp_path), dirs_exist_ok=True)
    source = tmp_path / f"block.{block.language}"
    source.write_text(block.text)
    options = {**STRICT, **RESOLUTIONS["bundler"], "lib": BROWSER, "jsx": "react-jsx", "skipLibCheck": True}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": [source.name]}))
    done = run("tsc", "--project", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
