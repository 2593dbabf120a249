"""A session: the rounds, folder, load client and samples of one benchmark."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.client import Load
from bench.process import BenchError, Child, cores
from bench.samples import Results, Sample
from bench.servers import Server, versions

WRITTEN = (
    "bench/results",
    "bench/README.md",
    "chaos/results",
    "docs/reliability.md",
    "docs/reliability",
    "docs/scaling.md",
)
"""The files that benchmarks write, which must not make the tree dirty for the next benchmark."""


@dataclass(slots=True)
class Session:
    """The argument of a benchmark module's `measure`."""

    results: Results
    runs: int
    quick: bool
    only: frozenset[str]  # the contestants to run; empty: all
    tmp: Path
    profiles: Path | None = None
    server_core: int = field(default_factory=lambda: cores()[0])
    client_core: int = field(default_factory=lambda: cores()[1])

    def rounds(self, contestants: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Yield (run, who), interleaved as A B, B A, A B …, so that no contestant always runs first."""
        chosen = [name for name in contestants if not self.only or name in self.only]
        for run in range(self.runs):
            order = chosen if run % 2 == 0 else chosen[::-1]
            for who in order:
                yield run, who

    def pick(self, full: Any, quick: Any) -> Any:
        """Return `full`, or `quick` in a quick session."""
        return quick if self.quick else full

    def load(self, server: Server, *, pinned: bool = True, **options: Any) -> Load:
        """Return a load client for a server, on the client's core."""
        core = self.client_core if pinned else None
        return Load(server, log=self.tmp / "load.log", core=core, **options)

    def add(self, case: str, who: str, run: int, **values: float) -> None:
        """Store and print one sample."""
        rounded = {name: round(value, 6) for name, value in values.items()}
        self.results.samples.append(Sample(case, who, run, rounded))
        shown = "  ".join(f"{name} {value:.5g}" for name, value in values.items())
        print(f"  {self.results.name} #{run} {case:<24} {who:<14} {shown}", file=sys.stderr, flush=True)

    @contextmanager
    def profiled(self, child: Child, title: str) -> Iterator[None]:
        """Record a flame graph of `child` with --profile; such a run does not count."""
        if self.profiles is None:
            yield
            return
        self.profiles.mkdir(parents=True, exist_ok=True)
        name = "-".join(re.findall(r"[a-z0-9]+", f"{self.results.name} {title}".lower()))
        argv = [str(Path(sys.executable).with_name("py-spy")), "record", "--native", "--rate", "250"]
        argv += ["--pid", str(child.pid), "--output", str(self.profiles / f"profile-{name}.svg")]
        with Child(argv, log=self.tmp / "py-spy.log", core=self.client_core) as spy:
            yield
            spy.popen.send_signal(signal.SIGINT)  # py-spy writes the graph on SIGINT
            spy.popen.wait(timeout=60)
        drawn = self.profiles / f"profile-{name}.svg"
        drawn.write_text(
            drawn.read_text().replace(" ".join(argv), title)
        )  # the command line contains this machine's folders

    @contextmanager
    def attempt(self, case: str, who: str, run: int) -> Iterator[ExitStack]:
        """Run with an exit stack; a failed run is recorded, and the others continue."""
        try:
            with ExitStack() as stack:
                yield stack
        except BenchError as error:
            note = f"{case}, {who}, run {run}: {error}"
            self.results.failures.append(note)
            print(f"  FAILED {note}", file=sys.stderr, flush=True)


@contextmanager
def session(
    name: str, *, runs: int, quick: bool, only: frozenset[str], profiles: Path | None = None
) -> Iterator[Session]:
    """Yield a session in a temporary folder, and record the machine and its steal time."""
    results = Results(name)
    with tempfile.TemporaryDirectory(prefix="tidewire-bench-") as tmp:
        before = _stolen()
        began = time.time()
        yield Session(results, runs, quick, only, Path(tmp), profiles)
        after = _stolen()
        busy = after[0] - before[0]
        results.about = machine() | {
            "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
            "seconds": round(time.time() - began),
            "runs": runs,
            "quick": quick,
            "stolen_percent": round(100 * (after[1] - before[1]) / busy, 2) if busy else 0.0,
        }


def machine() -> dict[str, Any]:
    """Return the properties of the machine that matter for a comparison, without its name."""
    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": os.uname().release.split("-")[0],
        "tcp": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "commit": _commit(),
        "versions": versions(),
    }


def require_clean_tree(allow_dirty: bool) -> None:
    """Raise BenchError if the tree differs from the current commit, which the results name.

    `allow_dirty` measures anyway: the results then name the commit with `-dirty`, which tests refuse.
    """
    changed = _changed_files()
    if changed and not allow_dirty:
        raise BenchError(
            f"the tree differs from its commit ({', '.join(changed[:3])}{', …' if changed[3:] else ''}), so results"
            " would name code that was not measured: commit or stash the changes, or pass --dirty to mark the results"
        )


def _commit() -> str:
    found = _git("rev-parse", "--short=7", "HEAD").strip()
    return f"{found}-dirty" if found and _changed_files() else found or "none"


def _changed_files() -> list[str]:
    """Return the files that differ from HEAD, new ones included, except what the measurements write themselves."""
    return [
        line[3:] for line in _git("status", "--porcelain", "--", ".", *(f":!{name}" for name in WRITTEN)).splitlines()
    ]


def _git(*arguments: str) -> str:
    """Return what git prints, nothing outside a checkout."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout


def _stolen() -> tuple[int, int]:
    """Return all ticks and the stolen ticks since boot; other virtual machines of the host cause the latter."""
    ticks = [int(tick) for tick in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(ticks), ticks[7]
