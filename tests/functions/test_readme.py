"""The README's ten lines do what they show, and every document leads where it says."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import ROOT, Instance, MakeInstance, inherited, wait_until

README = ROOT / "README.md"
ADDRESS = "http://127.0.0.1:8787"
SECONDS = 20.0

DOCUMENTS = [README, ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def ten_lines(instance: Instance) -> list[str]:
    """The commands of the first example, for this instance."""
    [block, *_] = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    commands = re.sub(r"\\\n", "", block).splitlines()
    return [line.replace(ADDRESS, instance.url) for line in commands if line.startswith("curl")]


@contextmanager
def running(command: str, output: str) -> Iterator[None]:
    with Path(output).open("wb") as file:
        process = subprocess.Popen(["sh", "-c", f"exec {command}"], stdout=file, env=inherited())
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_the_first_example_shows_the_subscriber_what_the_readme_says(
    make_instance: MakeInstance, tmp_path_factory: pytest.TempPathFactory
) -> None:
    subscribe, publish = ten_lines(make_instance())
    seen = tmp_path_factory.mktemp("readme") / "seen"
    with running(subscribe, str(seen)):
        wait_until(lambda: seen.exists() and "realtime.ready" in seen.read_text(), SECONDS)
        done = subprocess.run(["sh", "-c", publish], env=inherited(), capture_output=True, text=True, check=True)
        assert '"duplicate":false' in done.stdout
        wait_until(lambda: seen.read_text().endswith('event: task-updated\ndata: {"id": 7}\n\n'), SECONDS)
    shown = '    event: task-updated\n    data: {"id": 7}\n'
    assert shown in README.read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_every_script_that_a_document_names_is_there(document: object) -> None:
    path = ROOT / str(document)
    text = path.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    scripts = set(re.findall(r"(?<![\w/.])(scripts/[a-z_]+(?:\.py)?)\b", text))
    missing += [script for script in scripts if not (ROOT / script).exists()]
    assert missing == []
