"""Prints the release notes of a tag, which are the changelog's section for its version: `release_notes.py v0.1.0`.

Fails if the tag is not the version of `shared/tidewire/__init__.py`, or if CHANGELOG.md has no dated section for it.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


class ReleaseError(Exception):
    """The tag must not become a release; the text says what to change."""


def release_notes(tag: str, version: str, changelog: str) -> str:
    """Return the text below the version's heading; raises ReleaseError."""
    if tag != f"v{version}":
        raise ReleaseError(f"the tag is {tag} and the version is {version}: the tag must be v{version}")
    heading = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)
    if heading is None:
        raise ReleaseError(f'CHANGELOG.md has no heading "## [{version}] - YYYY-MM-DD"')
    notes = re.split(r"^## |^\[", changelog[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    if not notes:
        raise ReleaseError(f"the section of {version} in CHANGELOG.md is empty")
    return notes


def read_version(root: Path) -> str:
    """Return `tidewire.__version__` without importing the package; raises ReleaseError."""
    found = re.search(r'^__version__ = "([^"]+)"$', (root / "shared/tidewire/__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseError("shared/tidewire/__init__.py has no __version__")
    return found[1]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/release_notes.py TAG")
    try:
        print(release_notes(sys.argv[1], read_version(ROOT), (ROOT / "CHANGELOG.md").read_text()))
    except ReleaseError as error:
        sys.exit(f"release_notes: {error}")
