"""Measure two things side by side, and what one costs at most in memory.

Seconds of one machine say little about another's; a ratio of two measurements taken in turn (A B A B)
in one process says more, also where other work runs beside it.
"""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

Size = Literal["smoke", "quick", "full"]
Reads = Literal["times as fast", "times as long", "times the memory"]
Task = Callable[[], float]
"""Does its work once and returns the seconds that it took, scaled where only a share was done."""

Curve = list[tuple[float, float]]
Value = TypeVar("Value")

MIB = 2**20
_RESET_PEAK = "5"
"""What Linux takes in clear_refs for setting the largest resident memory to the present one."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        size: full for figures to publish, quick for a look, smoke for tests.
        full_size_unet: the LoRA step on a UNet of Stable Diffusion v1.4's size.
    """

    size: Size = "full"
    full_size_unet: bool = False

    def pick(self, smoke: Value, quick: Value, full: Value) -> Value:
        """Return what belongs to the size."""
        return {"smoke": smoke, "quick": quick, "full": full}[self.size]

    @property
    def rounds(self) -> int:
        """How many times two things are measured in turn."""
        return self.pick(1, 2, 5)


@dataclass(frozen=True)
class Figure:
    """One line of a table.

    Attributes:
        what: what was measured.
        against: what stood beside it.
        ours: median of ours, in `unit`.
        other: median of the other, in `unit`.
        unit: s or MiB.
        ratio: of the medians; other / ours where it reads "times as fast", else ours / other.
        low: the smallest ratio of a round.
        high: the largest ratio of a round.
        reads: how the ratio is read.
        aim: what was aimed at: a least ratio for "times as fast", else a largest; None for no aim.
        note: what else must be known, such as the share that was measured.
    """

    what: str
    against: str
    ours: float
    other: float
    unit: str
    ratio: float
    low: float
    high: float
    reads: Reads
    aim: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the aim is reached; None where there is none."""
        if self.aim is None:
            return None
        return self.ratio >= self.aim if self.reads == "times as fast" else self.ratio <= self.aim


@dataclass
class Section:
    """What one benchmark found: lines of its table, curves (x, seconds) of the plot by name."""

    figures: list[Figure] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)

    def add(self, line: Figure) -> Figure:
        """Add a line to the table, show it on stderr, and return it."""
        self.figures.append(line)
        print(f"  {line.what}, beside {line.against}: {line.ratio:.3g} {line.reads}", file=sys.stderr, flush=True)
        return line

    def mark(self, curve: str, x: float, y: float) -> None:
        """Add a point to a curve."""
        self.curves.setdefault(curve, []).append((x, y))


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(work: Callable[[], object]) -> Task:
    """Return the piece of work as a task."""
    return lambda: seconds(work)


def alternate(ours: Task, other: Task, rounds: int, warm_up: bool = True) -> tuple[list[float], list[float]]:
    """Run two tasks in turn, `rounds` times; return the seconds of each. A warm-up is not counted."""
    first, second = in_turn((ours, other), rounds, warm_up)
    return first, second


def in_turn(tasks: Sequence[Task], rounds: int, warm_up: bool = True) -> list[list[float]]:
    """Run tasks in turn, `rounds` times; return the seconds of each. A warm-up is not counted."""
    if warm_up:
        for task in tasks:
            task()
    found = [[task() for task in tasks] for _ in range(rounds)]
    return [list(column) for column in zip(*found, strict=True)]


def figure(
    what: str,
    against: str,
    measured: tuple[Sequence[float], Sequence[float]],
    reads: Reads,
    aim: float | None = None,
    note: str = "",
) -> Figure:
    """Return the line of two things measured in turn.

    Args:
        what: what was measured.
        against: what stood beside it.
        measured: of each the seconds (MiB where it reads "times the memory"), a number a round.
        reads: see `Figure`.
        aim: see `Figure`.
        note: see `Figure`.
    """
    ours, other = measured
    first, second = (other, ours) if reads == "times as fast" else (ours, other)
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return Figure(
        what=what,
        against=against,
        ours=statistics.median(ours),
        other=statistics.median(other),
        unit="MiB" if reads == "times the memory" else "s",
        ratio=statistics.median(first) / statistics.median(second),
        low=min(ratios),
        high=max(ratios),
        reads=reads,
        aim=aim,
        note=note,
    )


def peak_mib(work: Callable[[], object]) -> float:
    """Return by how many MiB the resident memory rises at most during the work, as Linux counts it.

    Memory that the allocator holds from earlier work is given back first, so that the rise is all the work's.

    Raises:
        OSError: the system is not Linux.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 1.0)


def _status(key: str) -> float:
    """Return a line of /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024 / MIB
    raise OSError(f"/proc/self/status: found no {key}")
