"""Collects these tests only if `scripts/netlify` has installed their dependencies (350 MB)."""

import re

from tests.support.processes import ROOT


def is_installed() -> bool:
    """Whether the version that scripts/netlify names is there; else it would install it in the middle of a test."""
    version = re.search(r"^version=(\S+)", (ROOT / "scripts" / "netlify").read_text(), re.MULTILINE)
    assert version is not None, "scripts/netlify names no version"
    return (ROOT / ".netlify-cli" / version[1]).is_dir()


collect_ignore = [] if is_installed() else ["test_netlify_dev.py"]
