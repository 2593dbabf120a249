"""Builds the bundle for Lambda; `scripts/package` calls this, and then packages the template.

The build is reproducible: files are sorted, times are fixed, and modules are compiled with hashes instead of times.
Wheels are installed by hash, and cached in .venv/wheels, so that a second build needs no network.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
TRACED = ROOT / "requirements-tracing.txt"  # includes requirements.txt
WHEELS = Path(sys.prefix) / "wheels"
LOCAL_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PLATFORMS = {
    "arm64": ("manylinux2014_aarch64", "manylinux_2_28_aarch64"),
    "x86_64": ("manylinux2014_x86_64", "manylinux_2_28_x86_64"),
}
SOURCES = {"functions": "functions", "shared/tidewire": "tidewire"}  # folder in the checkout: folder in the bundle
NOT_BUNDLED = ("__pycache__", "*.pyc", "tools", "site")  # no function imports the tools or serves the site
NOT_RUN = {".pyx", ".pxd", ".pxi", ".pyi", ".c", ".h"}  # sources of compiled modules, and type stubs
ROOT_ON_LAMBDA = "/var/task"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in the zip format
MAX_BYTES = 50 * 1024 * 1024  # Lambda's limit of a direct upload
MAX_UNPACKED_BYTES = 250 * 1024 * 1024


def fetch(target: str, python: str, traced: bool = False) -> Path:
    """Return the folder with the wheels for a platform; downloads them on the first call."""
    folder = WHEELS / f"{target}-{python}{'-traced' if traced else ''}"
    requirements = TRACED if traced else REQUIREMENTS
    stamp = folder / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + (TRACED.read_bytes() if traced else b"")).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip("download", "--dest", folder, "--require-hashes", "--requirement", requirements, *_tags(target, python))
    stamp.write_text(wanted)
    return folder


def fill(folder: Path, target: str, python: str, traced: bool = False) -> None:
    """Fill the folder with the packages of requirements.txt or requirements-tracing.txt, and our modules."""
    wheels = fetch(target, python, traced)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip("install", "--no-index", "--find-links", wheels, "--target", folder, "--no-compile", "--require-hashes",
         "--requirement", TRACED if traced else REQUIREMENTS, *_tags(target, python))  # fmt: skip
    shutil.rmtree(folder / "bin", ignore_errors=True)  # scripts with the path of this machine's Python
    for path in folder.rglob("*"):
        if path.is_file() and (path.name == "RECORD" or path.suffix in NOT_RUN):
            path.unlink()  # RECORD lists these scripts
    for source, place in SOURCES.items():
        shutil.copytree(ROOT / source, folder / place, ignore=shutil.ignore_patterns(*NOT_BUNDLED))
    if (ROOT / "realtime.toml").exists():
        shutil.copy(ROOT / "realtime.toml", folder)


def compile_modules(folder: Path, python: str) -> bool:
    """Compile all modules for their path on Lambda; return False without a Python of that version."""
    compiler = find_python(python)
    if compiler is None:
        return False
    # One process and a fixed hash seed: otherwise the order of sets differs between builds.
    command = [compiler, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-s", str(folder)]
    subprocess.run([*command, "-p", ROOT_ON_LAMBDA, str(folder)], check=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    return True


def pack(folder: Path, file: Path) -> str:
    """Write the folder as a zip, and return its SHA-256."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as bundle:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if path.suffix in (".sh", ".so") else 0o644) << 16
            bundle.writestr(info, path.read_bytes(), compresslevel=6)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def find_python(version: str) -> str | None:
    """Return a Python of this version, None if there is none; only it can compile for itself."""
    if version == LOCAL_PYTHON:
        return sys.executable
    candidate = shutil.which(f"python{version}")
    if candidate is None:
        return None
    version_line = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False).stdout
    return candidate if version_line.startswith(f"Python {version}.") else None


def _tags(target: str, python: str) -> list[str]:
    if target == "local":
        return ["--only-binary", ":all:", "--no-deps"]
    platforms = [argument for name in PLATFORMS[target] for argument in ("--platform", name)]
    return ["--only-binary", ":all:", "--no-deps", "--implementation", "cp", "--python-version", python, *platforms]


def pip(*arguments: str | Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments), *quiet], check=True)


def main() -> int:
    """Build the bundle, and print its size and hash."""
    parser = argparse.ArgumentParser(prog="scripts/bundle.py", description=__doc__)
    parser.add_argument("--platform", choices=(*PLATFORMS, "local"), default="arm64", help="platform of the functions")
    parser.add_argument(
        "--python", default="3.13", help="version of Lambda's runtime; with `--platform local`, this Python's"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bundle.zip")
    parser.add_argument("--traces", action="store_true", help="include requirements-tracing.txt")
    parser.add_argument("--fetch", action="store_true", help="only download the wheels")
    options = parser.parse_args()
    python = LOCAL_PYTHON if options.platform == "local" else options.python
    if options.fetch:
        fetch(options.platform, python, options.traces)
        return 0
    folder = options.out.with_suffix("")
    fill(folder, options.platform, python, options.traces)
    compiled = compile_modules(folder, python)
    sha256 = pack(folder, options.out)
    size, unpacked = (
        options.out.stat().st_size,
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )
    where = platform.machine() if options.platform == "local" else options.platform
    print(f"{options.out}: {size / 1e6:.1f} MB, {unpacked / 1e6:.1f} MB unpacked, Python {python} on {where}")
    print(f"sha256 {sha256}")
    if not compiled:
        print(
            f"bundle: python{python} was not found, so the modules are not compiled and cold starts take twice as long:"
            " install it, or choose another version with --python",
            file=sys.stderr,
        )
    if size > MAX_BYTES or unpacked > MAX_UNPACKED_BYTES:
        print("bundle: exceeds Lambda's limits (50 MB, 250 MB unpacked)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
