"""The documents, their blocks of code, and the commands within their text."""

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.repository.docs.commands import is_command
from tests.support.processes import ROOT

_PARSER = MarkdownIt("commonmark").enable("table")


class Block(NamedTuple):
    """A block of code, fenced or indented, or a command within the text."""

    document: str  # relative to the root
    line: int  # its first line in the document
    info: str  # the text behind the fence; `inline` for a command within the text
    text: str

    @property
    def language(self) -> str:
        """The first word behind the fence."""
        return self.info.partition(" ")[0]

    @property
    def role(self) -> str:
        """The other words behind the fence, such as `run` or `shows`."""
        return self.info.partition(" ")[2]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


@functools.cache
def documents() -> tuple[str, ...]:
    """Return every Markdown file of the project."""
    tops = (path for path in ROOT.iterdir() if not path.name.startswith(".") and path.name != "build")
    found = (file for top in tops for file in (top.rglob("*.md") if top.is_dir() else [top]) if file.suffix == ".md")
    return tuple(sorted(str(file.relative_to(ROOT)) for file in found if "node_modules" not in file.parts))


def text_of(document: str) -> str:
    """Return the text of a document."""
    return (ROOT / document).read_text()


@functools.cache
def _tokens(document: str) -> tuple[Token, ...]:
    return tuple(_PARSER.parse(text_of(document)))


@functools.cache
def blocks() -> tuple[Block, ...]:
    """Return every block of code of every document, from top to bottom."""
    return tuple(
        Block(document, token.map[0] + 1, token.info.strip(), token.content)
        for document in documents()
        for token in _tokens(document)
        if token.type in ("fence", "code_block") and token.map
    )


def spans(document: str) -> Iterator[Block]:
    """Yield all inline code of a document, also in tables and headings."""
    line = 0
    for token in _tokens(document):
        line = token.map[0] + 1 if token.map else line
        for child in token.children or []:
            if child.type == "code_inline":
                yield Block(document, line, "inline", child.content)


@functools.cache
def commands_in_text() -> tuple[Block, ...]:
    """Return every inline command with an argument, once: `scripts/osls info --stage prod`."""
    found: dict[str, Block] = {}
    for document in documents():
        for span in spans(document):
            if is_command(span.text):
                found.setdefault(span.text, span)
    return tuple(found.values())


def paragraphs(document: str) -> Iterator[str]:
    """Yield the lines of a document outside of tables and headings."""
    tokens = _tokens(document)
    for before, token in pairwise(tokens):
        if before.type == "paragraph_open" and token.type == "inline":
            yield from token.content.splitlines()


def table_rows(document: str, heading: str) -> list[list[str]]:
    """Return the cells of the tables between a heading and the next heading of any level."""
    rows: list[list[str]] = []
    within = False
    tokens = _tokens(document)
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            within = tokens[number + 1].content == heading
        elif within and token.type == "tr_open":
            rows.append([])
        elif within and token.type == "inline" and tokens[number - 1].type in ("td_open", "th_open"):
            rows[-1].append(token.content)
    return rows
