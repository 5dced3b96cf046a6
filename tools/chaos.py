"""Kill stages at random moments, start them again, and compare what they leave with an undisturbed run.

    python tools/chaos.py --kills 100 --seed 0

A copy of the project is made in a temporary folder, on the embedded model with small counts. Each stage
runs there as `python stages/x.py`; only that process gets the signal, as from a scheduler or the kernel.
A stage is killed up to four times before it is let end. Then

- its artifacts must have the bytes of an undisturbed run, and no temporary file may be left;
- what a kill has cost must be no more than one checkpoint interval: the passes of the UNet that were begun
  and did not reach the scratch folder, counted by `chaos_probe`; and the last run must make exactly the
  passes that the scratch folder lacked;
- no process of the stage may go on after the one that was killed, but for the batch it is at.

The moments are drawn by the seed; where in its work they find a stage depends on the machine.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer
import yaml
from safetensors import safe_open

from realera.drawing.many import divided
from realera.settings.config import ImageCounts
from realera.store.artifacts import write_json
from realera.store.paths import REALERA

PROJECT = Path(__file__).resolve().parent.parent
PROBE = PROJECT / "tools/chaos_probe"
CONCEPT = "airplane"
SETTINGS = {
    "encode": {"num_templates": 2},
    "sampler": {"M": 2, "N": 2},
    "latents": {"num_images": 6},
    "lora": {"steps": 20, "save_every": 4, "batch_size": 1},
    "generate": {"num_inference_steps": 4, "batch_size": 2, "num_processes": 2},
    "score": {"num_resamples": 500},
}
IMAGES = dict.fromkeys(ImageCounts.model_fields, 1) | {"erase": 8, "preserve": 3, "unseen": 4, "anchor": 4}
WORDS = {"cifar10": ["airplane", "cat", "dog"], "objects10": ["robot"], "unseen": ["fox"]}
"""Few prompts, samples, steps and images: a run of a stage takes seconds, most of them for its start."""

LONGEST_CHAIN = 4
"""Kills before a stage is let end."""

PATIENCE_S = 600.0
"""How long a stage may take to end after SIGTERM, and its processes after it."""

CLOCK_S = (0, -86_400, 86_400)
"""Jumps of the clock between two runs."""

INTERRUPTED = 130
"""Exit code of a stage after SIGTERM, once it listens to it."""

COLUMNS = (
    *("stage", "seconds", "SIGKILL", "SIGTERM", "after the work", "ended", "resumed", "mismatches"),
    *("repeated at most", "allowed", "temporary at the kill", "stale", "problems"),
)
TEXTS = ("stage", "seconds", "repeated at most", "allowed")
"""Those columns of the table that have no sum."""

_TICK_S = 0.002


@dataclass(frozen=True)
class Stage:
    """A stage under test.

    Attributes:
        name: as in dvc.yaml; a method's that is not RealEra's with the method.
        command: file in stages/, and its arguments.
        outputs: below artifacts/.
        share: of the kills.
        unit: what it keeps in its scratch folder: step, batch, or nothing.
        allowed: units that a kill may cost.
    """

    name: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    share: int
    unit: str = ""
    allowed: int = 0


OWN = f"{CONCEPT}/{REALERA}"
_PROCESSES, _INTERVAL = SETTINGS["generate"]["num_processes"], SETTINGS["lora"]["save_every"]
_SOLVED = (f"{OWN}/parts/kv_patch.safetensors", f"{OWN}/parts/solved.json")
UNDER_TEST = (
    Stage(
        "mine",
        ("mine", CONCEPT),
        (f"{OWN}/samples.parquet", f"{OWN}/moments.parquet", f"{OWN}/mining.json", f"{OWN}/sums"),
        6,
    ),
    Stage("solve", ("solve", CONCEPT), (*_SOLVED, f"{OWN}/solve.json"), 6),
    Stage("latents", ("latents", CONCEPT), (f"{CONCEPT}/anchor_latents.safetensors",), 10),
    Stage(
        "train",
        ("train", CONCEPT),
        (f"{OWN}/parts/lora", f"{OWN}/parts/trained.json", f"{OWN}/loss.csv"),
        28,
        "step",
        _INTERVAL,
    ),
    Stage("erase", ("erase", REALERA, CONCEPT), (f"{OWN}/erasure",), 4),
    Stage("erase-uce", ("erase", "uce", CONCEPT), (f"{CONCEPT}/uce/erasure",), 4),
    Stage("base", ("generate", "base"), ("shared/base.parquet",), 7, "batch", _PROCESSES),
    Stage("originals", ("generate", "originals", CONCEPT), (f"{CONCEPT}/originals.parquet",), 7, "batch", _PROCESSES),
    Stage("judge", ("judge", CONCEPT), (f"{CONCEPT}/judged.parquet",), 4),
    Stage("generate", ("generate", "erased", CONCEPT, REALERA), (f"{OWN}/images.parquet",), 18, "batch", _PROCESSES),
    Stage("score", ("score", CONCEPT, REALERA), (f"{OWN}/scores.parquet", f"{OWN}/scores.json"), 6),
)
NEEDED = (("encode", CONCEPT), ("plan",), *(stage.command for stage in UNDER_TEST))
"""All commands in an order in which each finds its inputs."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: the hashes of its outputs, its seconds, its passes, and those of a unit."""

    hashes: dict[str, str]
    seconds: float
    passes: int
    passes_a_unit: int


@dataclass(frozen=True)
class Plan:
    """How a run begins, when it is killed, and by what.

    Attributes:
        signal: SIGKILL or SIGTERM.
        at: moment, checkpoint (a unit has reached the scratch folder) or writing (a file is being written).
        seconds: after the start, for a moment.
        event: the how manyth, for the others.
        removes_outputs: whether what an earlier try has put out is removed before, as DVC does.
        clock_s: by how much the clock has jumped since that try: files are that much younger or older.
    """

    signal: signal.Signals
    at: str
    seconds: float
    event: int
    removes_outputs: bool
    clock_s: int


@dataclass
class Kill:
    """What a kill found and cost; passes are those of the UNet.

    Attributes:
        stage: name of the stage.
        signal: SIGKILL or SIGTERM.
        at: as planned.
        seconds: after the start of the run.
        exit_code: of the process; negative for a signal.
        kept_before: passes that the scratch folder held when the run began.
        passes: that it began, its other processes included.
        kept: passes that the scratch folder held when all had ended.
        repeated: units that are made again, as a fraction.
        passes_on: passes begun by other processes after the killed one had ended.
        seconds_on: how long they stayed.
        left: temporary files that the kill has left, which the next run must remove.
        is_late: the work was done and the scratch folder gone; only the process was still there.
        problem: what must not be; empty is good.
    """

    stage: str
    signal: str
    at: str
    seconds: float = 0.0
    exit_code: int = 0
    kept_before: int = 0
    passes: int = 0
    kept: int = 0
    repeated: float = 0.0
    passes_on: int = 0
    seconds_on: float = 0.0
    left: int = 0
    is_late: bool = False
    problem: str = ""


@dataclass(frozen=True)
class End:
    """What stands after a stage was let end.

    Attributes:
        stage: name of the stage.
        kills: before this run.
        resumed: whether it found work in the scratch folder.
        mismatches: outputs that differ from an undisturbed run's.
        stale: temporary files and scratch work that are left.
        problem: what must not be; empty is good.
    """

    stage: str
    kills: int
    resumed: bool
    mismatches: list[str]
    stale: list[str]
    problem: str


@dataclass
class Tally:
    """What became of a stage.

    Attributes:
        stage: the stage.
        reference: the undisturbed run.
        kills: those in its work.
        ends: one for each time that it was let end.
        late: kills after the work, beside `kills`.
    """

    stage: Stage
    reference: Reference
    kills: list[Kill] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    late: int = 0

    def problems(self) -> list[str]:
        """Return what must not be."""
        said = [kill.problem for kill in self.kills] + [end.problem for end in self.ends]
        found = [f"{self.stage.name}: {problem}" for problem in said if problem]
        found += [f"{self.stage.name}: {name} differs" for end in self.ends for name in end.mismatches]
        return found + [f"{self.stage.name}: {name} is left" for end in self.ends for name in end.stale]

    def row(self) -> dict[str, Any]:
        """Return a row of the table, by `COLUMNS`."""
        ends_resumed = sum(end.resumed and end.kills > 0 for end in self.ends)
        repeated, allowed = "all of it", "no checkpoint"
        if self.stage.unit:
            repeated = f"{max((kill.repeated for kill in self.kills), default=0.0):.2f} {self.stage.unit}"
            allowed = f"{self.stage.allowed} {self.stage.unit}"
        numbers = {name: sum(kill.signal == name for kill in self.kills) for name in ("SIGKILL", "SIGTERM")}
        numbers |= {"ended": len(self.ends), "after the work": self.late}
        numbers["resumed"] = sum(kill.kept_before > 0 for kill in self.kills) + ends_resumed
        numbers["mismatches"] = sum(len(end.mismatches) for end in self.ends)
        numbers["temporary at the kill"] = sum(kill.left for kill in self.kills)
        numbers["stale"] = sum(len(end.stale) for end in self.ends)
        numbers["problems"] = len(self.problems())
        seconds = f"{self.reference.seconds:.1f}"
        texts = {"stage": self.stage.name, "seconds": seconds, "repeated at most": repeated, "allowed": allowed}
        return texts | numbers


class Laboratory:
    """A small copy of the project in `work`, and how its stages are run, killed and looked at."""

    def __init__(self, work: Path):
        self.root = work / "project"
        self.scratch = work / "scratch"
        self.passes = work / "passes"
        self.log = work / "log.txt"
        copy_project(self.root)
        self.passes.mkdir()
        self.scratch.mkdir()
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(PROBE), str(self.root)]),
            "REALERA_PASSES": str(self.passes),
            "REALERA_SCRATCH": str(self.scratch),
            "XDG_CACHE_HOME": str(work / "cache"),
            "HF_HUB_OFFLINE": "1",
        }

    def prepare(self, commands: Sequence[Sequence[str]]) -> None:
        """Run stages one after the other in one process, which is faster than one process each."""
        program = "import json, runpy, sys\nfor name, *arguments in json.loads(sys.argv[1]):\n"
        program += "    sys.argv = [name, *arguments]\n    try:\n"
        program += "        runpy.run_path(f'stages/{name}.py', run_name='__main__')\n"
        program += "    except SystemExit as end:\n        if end.code:\n            raise\n"
        with self.log.open("w") as log:
            command = [sys.executable, "-c", program, json.dumps(commands)]
            code = subprocess.call(command, cwd=self.root, env=self.environment, stdout=log, stderr=log)
        if code:
            sys.exit(f"error: the project cannot be prepared:\n{self.said()}")

    def start(self, stage: Stage) -> "subprocess.Popen[bytes]":
        """Start a stage in a process group of its own; passes are counted from 0."""
        for path in self.passes.iterdir():
            path.unlink()
        script, *arguments = stage.command
        command = [sys.executable, f"stages/{script}.py", *arguments]
        with self.log.open("w") as log:
            return subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return the end of what the last process has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]

    def count_passes(self) -> int:
        """Return the passes begun since the last start."""
        return sum(path.stat().st_size for path in self.passes.iterdir())

    def outputs(self, stage: Stage) -> dict[str, str]:
        """Return the hash of every file that the stage has put out; "" where there is none."""
        found: dict[str, str] = {}
        for name in stage.outputs:
            path = self.root / "artifacts" / name
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            for file in files:
                key = str(file.relative_to(self.root / "artifacts"))
                found[key] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        return found

    def remove_outputs(self, stage: Stage) -> None:
        """Remove what a stage has put out, as DVC does before it runs it."""
        for name in stage.outputs:
            path = self.root / "artifacts" / name
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def temporary_files(self) -> list[str]:
        """Return what is half-written, in the workspace and in the scratch folder."""
        roots = (self.root / "artifacts", self.scratch)
        return [str(path) for root in roots for path in root.rglob(".tmp-*") if ".tmp-" not in str(path.parent)]

    def move_times(self, seconds: int) -> None:
        """Let artifacts and scratch files look as if the clock had jumped by `seconds` since they were written."""
        for root in (self.root / "artifacts", self.scratch):
            for path in root.rglob("*"):
                found = path.stat()
                os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))

    def units(self, stage: Stage) -> int:
        """Return how many finished steps or batches the scratch folder holds."""
        if stage.unit == "step":
            return sum(_steps(path) for path in self.scratch.glob("*/checkpoint.safetensors"))
        return sum(1 for _ in self.scratch.glob("*/part-*"))

    def marks(self, stage: Stage, at: str) -> set[tuple[str, int]]:
        """Return what is new when the awaited event has come: finished units, or files that are being written."""
        if at == "writing":
            folder = (self.root / "artifacts" / stage.outputs[0]).parent
            return {(path.name, 0) for where in (folder, self.scratch, *self._kept()) for path in where.glob(".tmp-*")}
        files = [path for folder in self._kept() for path in folder.glob("[!.]*")]
        return {mark for path in files for mark in _mark(path)}

    def clean(self) -> None:
        """Remove what a stage has left; what it has put out is the next one's input."""
        for path in [*map(Path, self.temporary_files()), *self._kept()]:
            shutil.rmtree(path, ignore_errors=True)

    def _kept(self) -> list[Path]:
        return [path for path in self.scratch.glob("[!.]*") if path.is_dir()]


def copy_project(target: Path) -> None:
    """Copy what stages need, with few words and small counts."""
    target.mkdir(parents=True)
    for name in ("realera", "stages", "data/concepts", "data/prompts"):
        shutil.copytree(PROJECT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "params.yaml", target)
    for path in (PROJECT / "data").iterdir():
        if not (target / "data" / path.name).exists():
            (target / "data" / path.name).symlink_to(path)
    shrink(target)


def shrink(project: Path) -> None:
    """Give a copy of the project few words and small counts."""
    params = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))
    for section, values in SETTINGS.items():
        params[section] |= values
    params["generate"]["images"] |= IMAGES
    params["concepts"] = [CONCEPT]
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (project / "data/prompts/words.yaml").write_text(yaml.safe_dump(WORDS), encoding="utf-8")


def measure(laboratory: Laboratory, stage: Stage) -> Reference:
    """Run a stage to its end, undisturbed."""
    laboratory.remove_outputs(stage)
    begun = time.monotonic()
    if laboratory.start(stage).wait():
        sys.exit(f"error: {stage.name} fails undisturbed:\n{laboratory.said()}")
    seconds, passes = time.monotonic() - begun, laboratory.count_passes()
    num_units = _num_units(laboratory, stage)
    if num_units and (passes % num_units or not passes):
        sys.exit(f"error: {stage.name}: {passes} passes are not the same number for each of {num_units} units")
    return Reference(laboratory.outputs(stage), seconds, passes, passes // num_units if num_units else 0)


def draw_plan(stage: Stage, seconds: float, seed: int, index: int) -> Plan:
    """Draw when and by what the `index`-th run of a stage is killed."""
    rng = random.Random(f"{seed} {stage.name} {index}")
    kinds = ("moment", "moment", "writing", "checkpoint" if stage.unit else "moment")
    # every other one, so that few kills have both; the parity is the seed's
    number = (signal.SIGKILL, signal.SIGTERM)[(index + random.Random(f"{seed} {stage.name}").randrange(2)) % 2]
    removes, clock_s = rng.random() < 0.5, rng.choice(CLOCK_S)
    return Plan(number, rng.choice(kinds), rng.uniform(0, seconds), rng.randint(1, 3), removes, clock_s)


def run_and_kill(laboratory: Laboratory, stage: Stage, plan: Plan, reference: Reference) -> Kill | int:
    """Run a stage and kill it by plan; return the exit code of one that has ended before."""
    kept_before = laboratory.units(stage) * reference.passes_a_unit
    if plan.removes_outputs or not kept_before:
        laboratory.remove_outputs(stage)
    laboratory.move_times(plan.clock_s)
    begun = time.monotonic()
    process = laboratory.start(stage)
    try:
        _await(laboratory, stage, plan, process)
        has_ended, seconds = process.poll() is not None, time.monotonic() - begun
        process.send_signal(plan.signal)
        code = process.wait(PATIENCE_S)
        if has_ended or code == 0:
            return code
        before = laboratory.count_passes()
        seconds_on = until_alone(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kill = Kill(stage.name, plan.signal.name, plan.at, seconds, code, kept_before, seconds_on=seconds_on)
    kill.passes = laboratory.count_passes()
    kill.passes_on = kill.passes - before
    kill.kept = laboratory.units(stage) * reference.passes_a_unit
    kill.left = len(laboratory.temporary_files())
    kill.is_late = _is_late(laboratory, stage, kill, reference)
    if stage.unit:
        kill.repeated = (kept_before + kill.passes - kill.kept) / reference.passes_a_unit
    kill.problem = "; ".join(_problems(laboratory, stage, kill, reference))
    return kill


def let_end(laboratory: Laboratory, stage: Stage, reference: Reference, num_kills: int) -> End:
    """Run a stage to its end and compare."""
    kept = laboratory.units(stage)
    code = laboratory.start(stage).wait()
    return compare(laboratory, stage, reference, num_kills, kept, code)


def compare(
    laboratory: Laboratory, stage: Stage, reference: Reference, num_kills: int, kept: int, code: int = 0
) -> End:
    """Compare what a stage has left at its end with an undisturbed run.

    Args:
        laboratory: where it ran.
        stage: the stage.
        reference: the undisturbed run.
        num_kills: before the run that ended.
        kept: units in the scratch folder when that began.
        code: its exit code.
    """
    problems = [f"exit code {code}: {laboratory.said()}"] if code else []
    wanted, passes = reference.passes - kept * reference.passes_a_unit, laboratory.count_passes()
    if passes != wanted:
        problems.append(f"{passes} passes in the last run, {wanted} were missing")
    found = laboratory.outputs(stage)
    names = found.keys() | reference.hashes.keys()
    differing = sorted(name for name in names if found.get(name) != reference.hashes.get(name))
    stale = laboratory.temporary_files() + [str(path) for path in laboratory.scratch.glob("[!.]*")]
    return End(stage.name, num_kills, kept > 0, differing, stale, "; ".join(problems))


def torment(
    laboratory: Laboratory, stage: Stage, num_kills: int, seed: int, tell: Callable[[str], None] = print
) -> Tally:
    """Kill a stage `num_kills` times; one that comes after the work is made up for by another."""
    tally = Tally(stage, measure(laboratory, stage))
    seconds = tally.reference.seconds
    index = chain = 0
    while len(tally.kills) < num_kills or chain:
        kept, plan, kill, code = laboratory.units(stage), None, None, 0
        begun = time.monotonic()
        if chain < LONGEST_CHAIN and len(tally.kills) < num_kills:
            plan, index = draw_plan(stage, seconds, seed, index), index + 1
            happened = run_and_kill(laboratory, stage, plan, tally.reference)
            kill, code = (happened, 0) if isinstance(happened, Kill) else (None, happened)
            if kill and not kill.is_late:
                tally.kills.append(kill)
                chain += 1
                tell(_line(tally, num_kills, kill.problem))
                continue
            tally.late += kill is not None
        if kill or not plan:
            end = let_end(laboratory, stage, tally.reference, chain)
        else:
            end = compare(laboratory, stage, tally.reference, chain, kept, code)
        if not kept:
            seconds = time.monotonic() - begun  # the machine may have become faster or slower
        tally.ends.append(end)
        tell(_line(tally, num_kills, end.problem or "; ".join(end.mismatches + end.stale) or "ended, compared"))
        chain = 0
        laboratory.clean()
    return tally


def _line(tally: Tally, num_kills: int, news: str) -> str:
    return f"{tally.stage.name}: {len(tally.kills)} of {num_kills} kills {news}".rstrip()


def table(tallies: Sequence[Tally]) -> str:
    """Return a Markdown table with a line a stage and a last one for all."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    found = [tally.row() for tally in tallies]
    lines += ["| " + " | ".join(str(row[name]) for name in COLUMNS) + " |" for row in found]
    totals = [str(sum(row[name] for row in found)) if name not in TEXTS else "" for name in COLUMNS[1:]]
    return "\n".join([*lines, "| all | " + " | ".join(totals) + " |"])


def _num_units(laboratory: Laboratory, stage: Stage) -> int:
    if stage.unit == "step":
        return SETTINGS["lora"]["steps"]
    if stage.unit == "batch":
        images = pq.ParquetFile(laboratory.root / "artifacts" / stage.outputs[0]).metadata.num_rows
        return len(divided(range(images), SETTINGS["generate"]["batch_size"]))
    return 0


def _steps(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="np") as file:
        return file.get_slice("rows").get_shape()[0]


def _mark(path: Path) -> Iterator[tuple[str, int]]:
    with suppress(FileNotFoundError):
        yield path.name, path.stat().st_mtime_ns


def _await(laboratory: Laboratory, stage: Stage, plan: Plan, process: "subprocess.Popen[bytes]") -> None:
    """Wait for the planned moment or event, or the end of the process."""
    if plan.at == "moment":
        with suppress(subprocess.TimeoutExpired):
            process.wait(plan.seconds)
        return
    seen, missing = laboratory.marks(stage, plan.at), plan.event
    while process.poll() is None:
        found = laboratory.marks(stage, plan.at)
        missing -= len(found - seen)
        seen |= found
        if missing <= 0:
            return
        time.sleep(_TICK_S)


def until_alone(group: int) -> float:
    """Wait until no process of a session is left; return the seconds, at most `PATIENCE_S`."""
    begun = time.monotonic()
    while members(group) and time.monotonic() - begun < PATIENCE_S:
        time.sleep(0.02)
    return time.monotonic() - begun


def members(session: int) -> list[int]:
    """Return the processes of a session that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def _is_late(laboratory: Laboratory, stage: Stage, kill: Kill, reference: Reference) -> bool:
    """Tell whether a stage with checkpoints had removed them, its outputs being whole."""
    is_gone = bool(stage.unit) and not kill.kept and kill.kept_before + kill.passes == reference.passes
    return is_gone and laboratory.outputs(stage) == reference.hashes


def _problems(laboratory: Laboratory, stage: Stage, kill: Kill, reference: Reference) -> Iterator[str]:
    expected = (-signal.SIGKILL,) if kill.signal == "SIGKILL" else (-signal.SIGTERM, INTERRUPTED)
    if kill.exit_code not in expected:
        yield f"exit code {kill.exit_code} after {kill.signal}: {laboratory.said()}"
    if "Traceback" in (said := laboratory.said()):
        yield f"a traceback: {said}"
    if kill.repeated > stage.allowed and not kill.is_late:
        yield f"{kill.repeated:.2f} units are repeated, {stage.allowed} are allowed"
    if kill.passes_on > stage.allowed * reference.passes_a_unit or kill.seconds_on >= PATIENCE_S:
        yield f"its processes went on for {kill.seconds_on:.1f} s and {kill.passes_on} passes"


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """Yield the folder to work in; one of our own is removed afterwards."""
    if work is not None:
        work.mkdir(parents=True)
        yield work.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="realera-chaos-") as folder:
        yield Path(folder)


def run(work: Path, stages: Sequence[Stage], num_kills: int, seed: int) -> Iterator[Tally]:
    """Make the project in `work`, an empty folder, and kill its stages one after the other, by their shares."""
    laboratory = Laboratory(work)
    last = max(NEEDED.index(stage.command) for stage in stages)
    laboratory.prepare(NEEDED[:last])
    total = sum(stage.share for stage in stages)
    borders = [sum(stage.share for stage in stages[:i]) * num_kills // total for i in range(len(stages) + 1)]
    for stage, before, after in zip(stages, borders, borders[1:], strict=False):
        yield torment(laboratory, stage, after - before, seed)


def main(
    kills: Annotated[int, typer.Option(min=1, help="How many, over all stages.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    stage: Annotated[list[str] | None, typer.Option(help="A stage to kill; else all of them.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every kill there, after each stage.")] = None,
    work: Annotated[Path | None, typer.Option(help="A new folder to work in, kept; else a temporary one.")] = None,
) -> None:
    """Kill stages at random moments, start them again, and compare; exit with 1 if anything differs."""
    known = {found.name: found for found in UNDER_TEST}
    if strange := set(stage or ()) - known.keys():
        sys.exit(f"error: --stage: found {sorted(strange)[0]!r}; accepted: {', '.join(known)}")
    chosen = [found for name, found in known.items() if name in (stage or known)]
    begun = time.monotonic()
    tallies: list[Tally] = []
    with _folder(work) as folder:
        for tally in run(folder, chosen, kills, seed):
            tallies.append(tally)
            if json_file is not None:
                write_json({"seed": seed, "stages": [asdict(found) for found in tallies]}, json_file)
    typer.echo(f"\n{table(tallies)}\n\nseed {seed}, {time.monotonic() - begun:.0f} s")
    problems = [problem for tally in tallies for problem in tally.problems()]
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    typer.run(main)
