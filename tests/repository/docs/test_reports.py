"""The reports of bench/ and chaos/: refused trees, the meaning of their counters, and the committed files."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from tidewire.model.cursor import Cursor, Position

from bench.process import BenchError
from bench.session import WRITTEN, machine, require_clean_tree
from chaos.phases import FULL, count_reordered
from chaos.report import LOAD_ROWS
from tests.support.processes import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("answer = 41\n")
    (tmp_path / WRITTEN[0]).mkdir(parents=True)
    (tmp_path / WRITTEN[0] / "fanout.json").write_text("{}\n")
    git("init", "--quiet")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "--quiet", "--message", "first")
    return tmp_path


def git(*arguments: str) -> None:
    """Run git here."""
    subprocess.run(["git", *arguments], check=True)


def test_a_changed_tree_is_refused_by_name(checkout: Path) -> None:
    """Results name a commit: they must not come from code that this commit does not hold."""
    require_clean_tree(allow_dirty=False)
    (checkout / "code.py").write_text("answer = 42\n")
    with pytest.raises(BenchError, match=r"code\.py.*--dirty"):
        require_clean_tree(allow_dirty=False)


def test_a_new_file_is_a_change(checkout: Path) -> None:
    """Python would import it."""
    (checkout / "more.py").write_text("")
    with pytest.raises(BenchError, match=r"more\.py"):
        require_clean_tree(allow_dirty=False)


def test_results_of_a_changed_tree_are_marked(checkout: Path) -> None:
    """`--dirty` measures anyway, and marks the results."""
    assert not machine()["commit"].endswith("-dirty")
    (checkout / "code.py").write_text("answer = 42\n")
    require_clean_tree(allow_dirty=True)
    assert machine()["commit"].endswith("-dirty")


def test_written_results_do_not_count_as_a_change(checkout: Path) -> None:
    """One command measures several things, and writes each when it has it."""
    (checkout / WRITTEN[0] / "fanout.json").write_text('{"samples": []}\n')
    (checkout / WRITTEN[0] / "idle.json").write_text("{}\n")
    require_clean_tree(allow_dirty=False)
    assert not machine()["commit"].endswith("-dirty")


def arrival(connection: int, **offsets: int) -> str:
    """A line of the load client."""
    places = {name: Position(1, offset, "00000001", 5) for name, offset in offsets.items()}
    return f"{connection} 7 {Cursor(places).encode()}\n"


def test_order_is_counted_by_connection_and_partition() -> None:
    """An event behind the place of an earlier one on its connection, or at the same place, is out of order."""
    good = [arrival(0, all=1), arrival(1, all=3), arrival(0, all=2), arrival(1, all=3, own=1), arrival(1, all=4, own=1)]
    assert count_reordered(good) == 0
    assert count_reordered([*good, arrival(0, all=1)]) == 1
    assert count_reordered([*good, arrival(1, all=4, own=1)]) == 1
    assert count_reordered([*good, arrival(1, all=5, own=0)]) == 1


RESULTS = [*sorted((ROOT / "bench" / "results").glob("*.json")), *sorted((ROOT / "chaos" / "results").glob("*.json"))]


def commit_of(path: Path) -> str:
    """The commit that a committed result names."""
    commit: str = json.loads(path.read_text())["about"]["commit"]
    return commit


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_committed_result_is_of_a_clean_commit(path: Path) -> None:
    """A result of a changed tree is not committed."""
    assert re.fullmatch(r"[0-9a-f]{7,40}", commit_of(path))


def test_results_name_commits_of_this_history() -> None:
    """A copy without the history has no commits to compare with."""
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, check=False
    )
    if shallow.stdout.strip() != b"false":
        return
    for commit in sorted({commit_of(path) for path in RESULTS}):
        subprocess.run(["git", "merge-base", "--is-ancestor", commit, "HEAD"], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", [phase.name for phase in FULL])
def test_each_counter_of_a_run_is_a_row_of_the_page(name: str) -> None:
    """Events out of order once stood in the JSON, above 0, and not on the page."""
    done = json.loads((ROOT / "chaos" / "results" / f"{name}.json").read_text())["done"]
    counted = {key for key, value in done.items() if isinstance(value, int)} - {"expected", "bytes"}
    rows = {cell for _, cell in LOAD_ROWS if isinstance(cell, str)}
    assert counted <= rows
    document = (ROOT / "docs" / "reliability.md").read_text()
    for title, _ in LOAD_ROWS:
        assert f"\n| {title} |" in document
