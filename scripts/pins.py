"""Writes hashes into the requirements files: `scripts/pins` calls it.

pip then installs these wheels and no others, whatever an index or a mirror serves. A pin has the wheels of the
platforms and Python versions that Tidewire supports; comments and order stay as they are.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
OLDEST = 11  # Python 3.11
MACHINES = ("x86_64", "aarch64")

Hashes = Mapping[tuple[str, str], Iterable[str]]
"""(name, version) of a package → the SHA-256 of its wheels."""

_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+)(.*)", re.ASCII)


def files(root: Path) -> list[Path]:
    """Return the files with pins."""
    return sorted([*root.glob("requirements*.txt"), *root.glob("bench/requirements.txt"),
                   *root.glob("scripts/requirements/*.txt")])  # fmt: skip


def pins(text: str) -> list[str]:
    """Return a file's own requirements, without their hashes."""
    lines = (line.removesuffix("\\").rstrip() for line in text.splitlines())
    return [line for line in lines if _PIN.match(line)]


def with_hashes(text: str, hashes: Hashes) -> str:
    """Return a file's text with these hashes below each pin, and no others; raises KeyError if a pin has no entry."""
    written = []
    for line in text.splitlines():
        if line.lstrip().startswith("--hash="):
            continue
        pin = _PIN.match(line)
        if pin is None:
            written.append(line)
            continue
        found = sorted(hashes[normalized(pin[1]), pin[2]])
        written.append(" \\\n    ".join([line.removesuffix("\\").rstrip(), *(f"--hash=sha256:{one}" for one in found)]))
    return "\n".join(written) + "\n"


def read_lock(text: str) -> dict[tuple[str, str], list[str]]:
    """Return the hashes of a `pylock.toml` (PEP 751), of supported wheels only."""
    found: dict[tuple[str, str], list[str]] = {}
    for package in tomllib.loads(text)["packages"]:
        wheels = {
            wheel.get("name") or _file_name(wheel["url"]): wheel["hashes"]["sha256"] for wheel in package["wheels"]
        }
        found[normalized(package["name"]), package["version"]] = [
            sha256 for name, sha256 in wheels.items() if is_supported(name)
        ]
    return found


def is_supported(wheel: str) -> bool:
    """Return whether a wheel is for CPython 3.11 or newer on a supported platform, by the tags in its name."""
    pythons, abis, platforms = (part.split(".") for part in wheel.removesuffix(".whl").split("-")[-3:])
    runs = any(_is_supported_abi(abi, python) for abi in abis for python in pythons)
    return runs and any(map(_is_supported_platform, platforms))


def _is_supported_abi(abi: str, python: str) -> bool:
    if abi in ("none", "abi3"):
        return python.startswith(("py3", "cp3"))
    version = re.fullmatch(r"cp3(\d+)", abi)  # cp314t, without the global lock, is another platform
    return version is not None and int(version[1]) >= OLDEST


def _is_supported_platform(platform: str) -> bool:
    if platform.startswith(("manylinux", "musllinux", "linux")):
        return platform.endswith(MACHINES)
    return platform in ("any", "win_amd64") or platform.startswith("macosx")


def normalized(name: str) -> str:
    """Return a package's name as indexes write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def lock(uv: str, requirements: list[str]) -> str:
    """Return the `pylock.toml` that uv makes of these requirements: for all platforms, without dependencies."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text("\n".join(requirements) + "\n")
        options = ["--universal", "--no-deps", "--python-version", f"3.{OLDEST}", "--format", "pylock.toml", "--quiet"]
        command = [uv, "pip", "compile", *options, "--no-config", "--no-annotate", str(wanted)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Write all files; with --check, only name those that would change."""
    parser = argparse.ArgumentParser(prog="scripts/pins", description=__doc__)
    parser.add_argument("--uv", required=True, help="path of uv")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file would change")
    arguments = parser.parse_args()
    changed = False
    for path in files(ROOT):
        text = path.read_text()
        hashes = read_lock(lock(arguments.uv, pins(text)))
        for name, version in (pin for pin, wheels in hashes.items() if not wheels):
            sys.exit(f"pins: {path.relative_to(ROOT)}: {name} {version} has no wheel for a supported platform")
        new = with_hashes(text, hashes)
        if new != text:
            changed = True
            print(f"pins: {path.relative_to(ROOT)} {'is out of date' if arguments.check else 'written'}")
            if not arguments.check:
                path.write_text(new)
    return int(changed and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
