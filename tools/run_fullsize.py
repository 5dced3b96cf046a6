"""Run every stage on a random checkpoint of Stable Diffusion v1.4's size, and measure each.

    python tools/run_fullsize.py

A copy of the project is made in a temporary folder, with a git repository, a DVC cache and a
checkpoint of its own; there `dvc exp run -S model.id=...` does what it does for a user. Only
the numbers of images, denoising steps and training steps are small. Nothing is fetched.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
import yaml

from realera.settings.config import ImageCounts

PROJECT = Path(__file__).resolve().parent.parent
SOURCES = ("realera", "stages", "data", "tools", "params.yaml", "dvc.yaml", ".dvcignore", ".gitignore")
CONCEPT = "fullsize"
WORDS = {"fullsize_classes": ["airplane", "cat"]}
PRESET = {
    "task": "object",
    "targets": ["airplane"],
    "anchors": ["sun"],
    "synonyms": {"airplane": ["aircraft"]},
    "classes": "fullsize_classes",
    "preserve": {"lists": ["cifar10"], "texts": [""]},
    "templates": "object",
    "neighbors": [],
    "draw": {},
    "judged": {},
}
"""As the preset airplane, with fewer words to draw."""

SETTINGS = {
    "concepts": f"[{CONCEPT}]",
    "latents.num_images": "1",
    "lora.steps": "2",
    "lora.learning_rate": "1.0e-5",
    "lora.batch_size": "1",
    "generate.num_inference_steps": "2",
    "generate.guidance_scale": "7.5",
    "generate.batch_size": "1",
    "generate.num_processes": "1",
    "generate.num_threads": "2",
    **{f"generate.images.{group}": "1" for group in ImageCounts.model_fields},
}
"""What is given beside model.id; the rest is as in params.yaml."""

LOG = "log.jsonl"
START, END = "<!-- measured -->", "<!-- /measured -->"
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft", "dvc")
GIB = 2**30
NEEDED_BYTES = 4 * GIB
"""2.1 GB of checkpoint, and the artifacts with DVC's copies of them."""


@dataclass(frozen=True)
class Row:
    """What one command took.

    Attributes:
        stage: name of the stage.
        seconds: by the clock.
        cpu_seconds: of all threads.
        peak_bytes: largest resident memory.
    """

    stage: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(work: Path, model: Path | None, extra: Sequence[str]) -> list[Row]:
    """Build the checkpoint unless one is given, run the graph, return a row a command.

    Args:
        work: an empty folder.
        model: a checkpoint: a diffusers folder, or a `.safetensors` file with `model.config` in `extra`.
        extra: further KEY=VALUE for `dvc exp run -S`.
    """
    project = copy_project(work / "project")
    environment = own_environment(work, project)
    for command in ("git init --quiet", "dvc init --quiet", "git add .", "git commit --quiet -m project"):
        _call(command.split(), project, environment)
    if model is None:
        model = work / "model"
        _call(["python", "tools/fullsize.py", "--out", str(model)], project, environment)
    settings = [f"{key}={value}" for key, value in SETTINGS.items()] + [f"model.id={model}", *extra]
    options = [part for setting in settings for part in ("-S", setting)]
    _call(["dvc", "exp", "run", "--name", "full-size", *options], project, environment)
    return read_rows(work / LOG)


def copy_project(target: Path) -> Path:
    """Copy the sources, with a preset that has few words."""
    target.mkdir(parents=True)
    for name in SOURCES:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    words = target / "data/prompts/words.yaml"
    words.write_text(words.read_text(encoding="utf-8") + "\n" + yaml.safe_dump(WORDS), encoding="utf-8")
    preset = target / f"data/concepts/{CONCEPT}.yaml"
    preset.write_text(yaml.safe_dump(PRESET, sort_keys=False), encoding="utf-8")
    return target


def own_environment(work: Path, project: Path) -> dict[str, str]:
    """Return an environment in which `python` is measured, and caches and settings are in `work`."""
    binaries = work / "bin"
    binaries.mkdir()
    shim = binaries / "python"
    measured = (sys.executable, project / "tools/measure.py", work / LOG, sys.executable)
    shim.write_text("#!/bin/sh\nexec " + " ".join(shlex.quote(str(part)) for part in measured) + ' "$@"\n')
    shim.chmod(0o755)
    path = [str(binaries), str(Path(sys.executable).parent), os.environ["PATH"]]
    author = {f"GIT_{who}_{what}": "fullsize" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return (
        os.environ
        | author
        | {
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(project),
            "HF_HUB_OFFLINE": "1",
            "REALERA_SCRATCH": str(work / "scratch"),
            "XDG_CACHE_HOME": str(work / "cache"),
            "DVC_GLOBAL_CONFIG_DIR": str(work / "dvc"),
            "DVC_SYSTEM_CONFIG_DIR": str(work / "dvc"),
            "DVC_SITE_CACHE_DIR": str(work / "dvc-cache"),
            "DVC_NO_ANALYTICS": "1",
        }
    )


def read_rows(log: Path) -> list[Row]:
    """Read what `tools/measure.py` wrote, in the order of the runs."""
    found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [Row(_name(row["stage"]), row["seconds"], row["cpu_seconds"], row["peak_bytes"]) for row in found]


def _name(stage: str) -> str:
    return "(checkpoint)" if "tools/fullsize.py" in stage else stage.partition("@")[0]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table with a last line for all."""
    lines = ["| Stage | Seconds | CPU seconds | Peak memory, GiB |", "|---|---:|---:|---:|"]
    total = Row("all", sum(r.seconds for r in rows), sum(r.cpu_seconds for r in rows), max(r.peak_bytes for r in rows))
    for row in [*rows, total]:
        lines.append(f"| {row.stage} | {row.seconds:.0f} | {row.cpu_seconds:.0f} | {row.peak_bytes / GIB:.1f} |")
    return "\n".join(lines)


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the page's two markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"error: {page}: found no {START} with an {END}; accepted: a page with both")
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def machine() -> str:
    """Return in one line what was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    where = f"{os.cpu_count()} CPU cores ({platform.machine()}), {memory:.0f} GiB of memory"
    return f"{where}, Python {platform.python_version()}, {libraries}"


def _call(command: list[str], project: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=project, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command[:3])} ended with {done.returncode}; its output is above")


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """Yield the folder to work in; one of our own is removed afterwards."""
    if work is not None:
        work.mkdir(parents=True)
        yield work.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="realera-fullsize-") as folder:
        yield Path(folder)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        sys.exit(
            f"error: {folder} has {free / GIB:.1f} GiB free, {NEEDED_BYTES / GIB:.0f} are needed; accepted: --work"
        )


def main(
    work: Annotated[Path | None, typer.Option(help="A new folder to work in, kept; else a temporary one.")] = None,
    model: Annotated[Path | None, typer.Option(help="A checkpoint to use; else one is built.")] = None,
    limit: Annotated[float, typer.Option(help="GiB that no stage may exceed.")] = 24.0,
    setting: Annotated[list[str] | None, typer.Option("--set", "-S", help="KEY=VALUE of params.yaml.")] = None,
    page: Annotated[Path | None, typer.Option(help="A Markdown page whose table is replaced.")] = None,
) -> None:
    """Run every stage on a checkpoint of Stable Diffusion v1.4's size; print seconds and peak memory."""
    with _folder(work) as folder:
        _check_disk(folder)
        rows = run(folder, model.absolute() if model else None, setting or [])
    text = f"{table(rows)}\n\n{machine()}"
    typer.echo(f"\n{text}")
    if page is not None:
        put_into(page, text)
    if (peak := max(row.peak_bytes for row in rows)) > limit * GIB:
        sys.exit(f"error: {peak / GIB:.1f} GiB, more than --limit {limit:g}")


if __name__ == "__main__":
    typer.run(main)
