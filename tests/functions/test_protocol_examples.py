"""The examples of docs/protocol.md do what they show."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import MakeInstance, inherited

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
MARK = "--- end of example ---"


@dataclass
class Example:
    """One block marked `sh run`, and what the block after it says that it shows."""

    command: str
    shows: str = ""

    def matches(self, output: str) -> bool:
        """Whether this is what it shows; `…` stands for whatever there is within a line."""
        pattern = ".*".join(map(re.escape, self.shows.strip().split("…")))
        return re.fullmatch(pattern, output.strip()) is not None


def examples() -> list[Example]:
    found: list[Example] = []
    for block in BLOCK.finditer(PROTOCOL.read_text()):
        if block["info"] == "sh run":
            found.append(Example(block["text"]))
        elif block["info"].endswith(" shows"):
            found[-1].shows = block["text"]
    return found


@pytest.mark.timeout(90)
def test_every_example_shows_what_the_document_says_run_in_one_shell_from_top_to_bottom(
    make_instance: MakeInstance,
) -> None:
    written = examples()
    assert len(written) >= 8
    script = "".join(f"{example.command}\necho; echo '{MARK}'\n" for example in written)
    environment = {**inherited(), "TIDEMARK": make_instance().url}
    ran = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=80)
    outputs = ran.stdout.split(f"{MARK}\n")[:-1]
    assert len(outputs) == len(written)
    for example, output in zip(written, outputs, strict=True):
        assert example.matches(output), f"{example.command}\nshows\n{output}\nand not\n{example.shows}"
    assert ran.stderr == ""


def test_a_block_is_either_run_or_shown_so_that_none_is_forgotten() -> None:
    kinds = {block["info"] for block in BLOCK.finditer(PROTOCOL.read_text())}
    assert kinds == {"sh run", "json shows", "text shows"}
