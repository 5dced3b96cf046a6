"""The table of ten classes by `dvc repro`, from nothing and with the defaults, beside an earlier build's.

Both builds are clones of this repository with nothing in their caches, run in turn. The earlier one is the commit that
BEFORE names, or $REALERA_BEFORE.
"""

import csv
import importlib
import os
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.sizes import PROJECT
from benchmarks.timing import Section, Settings, alternate, figure, timed
from realera.settings.errors import RealEraError

BEFORE = "b0bffbb"
"""The last build that mined by samples alone and imported everything in every stage."""

AIM = 0.6
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FIGURES = Path("reports/figures.csv")


def measure(settings: Settings) -> Section:
    """Measure the table; quick: of two classes, smoke: the words of one."""
    concepts = CLASSES[: settings.pick(1, 2, 10)]
    stage = settings.pick(["plan"], [], [])
    section = Section()
    with tempfile.TemporaryDirectory() as folder:
        builds = {name: Path(folder) / name for name in ("now", "before")}
        revisions = {"now": "HEAD", "before": os.environ.get("REALERA_BEFORE", BEFORE)}
        tasks = [timed(partial(reproduce, builds[name], revisions[name], concepts, stage)) for name in builds]
        measured = alternate(tasks[0], tasks[1], settings.pick(1, 1, 1), warm_up=False)
        note = "" if stage else f"figures differ by at most {difference(*builds.values()):.2f} points"
    what = f"`dvc repro` of {len(concepts)} classes from nothing" + (", the words alone" if stage else "")
    section.add(
        figure(what, f"the build {revisions['before']}", measured, "times as long", None if stage else AIM, note)
    )
    return section


def reproduce(folder: Path, revision: str, concepts: tuple[str, ...], stage: list[str]) -> None:
    """Run a build's `dvc repro` in a new clone.

    Raises:
        RealEraError: the repository has no such commit, or a stage fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _run(["git", "clone", "--quiet", str(PROJECT), str(folder)], PROJECT, None)
    _run(["git", "checkout", "--quiet", revision], folder, None)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")) | {"concepts": list(concepts)}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    (folder / "dvc.lock").unlink(missing_ok=True)
    environment: dict[str, str] = importlib.import_module("tests.kit.dvc_repository").own_environment(folder / "home")
    environment |= {"PYTHONPATH": str(folder)}
    environment.pop("OMP_NUM_THREADS", None)
    _run(["dvc", "repro", *stage], folder, environment)


def difference(one: Path, other: Path) -> float:
    """Return by how many points the two builds' figures differ at most."""
    first, second = (_figures(folder / FIGURES) for folder in (one, other))
    return max(abs(first[key] - second[key]) for key in first.keys() & second.keys())


def _figures(path: Path) -> dict[tuple[str, ...], float]:
    with path.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    names = ("concept", "method", "metric", "reading", "model")
    return {tuple(row[name] for name in names): float(row["value"]) for row in rows if row["value"]}


def _run(command: list[str], folder: Path, environment: dict[str, str] | None) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RealEraError(f"{' '.join(command[:3])}: {last}")
