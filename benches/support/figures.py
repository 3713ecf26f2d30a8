"""What a comparison is made of: figures of several runs, tables, and what else the machine did."""

import collections
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
# Seconds that one of the system's tools may take.
PATIENCE = 15.0


class Busy(NamedTuple):
    """Seconds in which this machine's CPUs worked, and which its host took from them."""

    busy: float
    stolen: float

    @classmethod
    def now(cls) -> "Busy":
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, stolen = map(int, file.readline().split()[1:9])
        return cls((user + nice + system + irq + softirq) / TICKS, stolen / TICKS)

    def __sub__(self, earlier: "Busy") -> "Busy":
        return Busy(self.busy - earlier.busy, self.stolen - earlier.stolen)


def stat_fields(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on, if there is such a process (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None


def output(command: Sequence[str], folder: Path | None = None) -> str:
    """What a program says, also where it ends with an error (`sipp -v` does)."""
    ended = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, text=True, check=False,
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=PATIENCE)
    return ended.stdout.strip()


def commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    changed = output(["git", "status", "--porcelain", "--untracked-files=no"], ROOT)
    head = output(["git", "rev-parse", "--short", "HEAD"], ROOT) or "unknown"
    return f"{head}, with changes" if changed else head


def machine() -> dict[str, Any]:
    described = collections.defaultdict(str)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        described.setdefault(key.strip(), value.strip())
    is_virtual = "hypervisor" in described["flags"].split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": described["model name"] or os.uname().machine, "cpus": os.cpu_count(),
            "is_virtual": is_virtual, "kernel": f"{os.uname().sysname} {os.uname().release}",
            "memory_bytes": memory}


class Spread(NamedTuple):
    """A figure in all runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def told(self) -> str:
        median, least, most = map(number, self)
        return f"{median} [{least}–{most}]" if least != most else median


def number(value: float) -> str:
    """Three digits that count; thousands in whole."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}".replace(",", " ")
    return f"{value:#.3g}".rstrip(".")


def times(runs: int) -> str:
    return "one run" if runs == 1 else f"{runs} runs"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
