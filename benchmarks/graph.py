"""The graph: `dvc repro` where nothing is to be done, and what starting each stage costs.

In a copy of the project each output is a small file of the right name, recorded by `dvc commit`: what a
`dvc repro` without work does, does not depend on what the files hold.
"""

import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.sizes import PROJECT
from benchmarks.timing import Section, Settings, Task, alternate, figure, timed
from realera.settings.errors import RealEraError

SOURCES = ["realera", "stages", "data", "params.yaml", "dvc.yaml", ".gitignore", "pyproject.toml"]
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "torchmetrics", "pandas", "pyarrow")
"""Libraries whose import takes seconds or tenths of them."""

LIST_OUTPUTS = """
import json
from dvc.repo import Repo
with Repo() as repo:
    print(json.dumps([out.fs_path for out in repo.index.outs]))
"""
IMPORT_DVC = ("-c", "import dvc.repo")
IMPORT_TORCH = ("-c", "import torch")


def measure(settings: Settings) -> Section:
    """Measure the start of each stage, and unless the size is smoke the graph."""
    section = Section()
    if settings.size != "smoke":
        _measure_graph(section, settings)
    stages = sorted((PROJECT / "stages").glob("*.py"))
    for stage in settings.pick([path for path in stages if path.stem == "plan"], stages, stages):
        arguments = (str(stage), "--help")
        measured = alternate(_python(*arguments), _python(*IMPORT_TORCH), settings.pick(1, 2, 3), warm_up=False)
        note = f"imports {', '.join(imported(stage)) or 'none of the large libraries'}"
        section.add(figure(f"start of {stage.stem}", "`import torch`", measured, "times as long", None, note))
    return section


def imported(stage: Path) -> list[str]:
    """Return which of LIBRARIES a stage imports before it does anything."""
    command = [sys.executable, "-X", "importtime", str(stage), "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return [name for name in LIBRARIES if name in names]


def copy_with_outputs(folder: Path, num_concepts: int) -> Any:
    """Return a copy of the project under git and DVC in which every stage counts as done.

    Raises:
        RealEraError: the project has fewer presets.
    """
    presets = sorted(path.stem for path in (PROJECT / "data/concepts").glob("*.yaml"))
    if len(presets) < num_concepts:
        raise RealEraError(f"data/concepts: found {len(presets)} presets; accepted: {num_concepts} or more")
    root, home = folder / "project", folder / "home"
    root.mkdir(parents=True)
    copy = importlib.import_module("tests.kit.dvc_repository").Repository(root, PROJECT, home, SOURCES)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["concepts"] = presets[:num_concepts]
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for path in json.loads(copy.run(sys.executable, "-c", LIST_OUTPUTS)):
        _fill(Path(path))
    copy.run("dvc", "commit", "--force", "--quiet")
    return copy


def no_op(copy: Any) -> None:
    """Run `dvc repro`.

    Raises:
        RealEraError: it ran a stage.
    """
    output = copy.run("dvc", "repro")
    if found := re.findall(r"Running stage '([^']*)'", output):
        raise RealEraError(f"dvc repro: found {len(found)} stages that ran, {found[0]} first; accepted: none")


def _measure_graph(section: Section, settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, ten = (copy_with_outputs(Path(folder) / str(num), num) for num in (1, 10))
        rounds = settings.pick(1, 2, 5)
        start = _python(*IMPORT_DVC)
        measured = alternate(timed(lambda: no_op(one)), start, rounds)
        what = "`dvc repro` without work, 1 concept"
        section.add(figure(what, "`import dvc.repo`", measured, "times as long"))
        measured = alternate(timed(lambda: no_op(ten)), timed(lambda: no_op(one)), rounds, warm_up=False)
        note = f"{len(_stages(ten))} stages, {len(_stages(one))} with 1"
        section.add(figure("the same, 10 concepts", "1 concept", measured, "times as long", None, note))


def _stages(copy: Any) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((copy.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    return stages


def _fill(path: Path) -> None:
    """Make an output: a file where the name has a suffix, else a folder with one."""
    file = path if path.suffix else path / "file"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}", encoding="utf-8")


def _python(*arguments: str) -> Task:
    command = [sys.executable, *arguments]
    return timed(lambda: subprocess.run(command, cwd=PROJECT, capture_output=True, check=True))
