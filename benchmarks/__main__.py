"""Run the benchmarks and write what they found.

    python -m benchmarks --only solve --quick

Each figure is a ratio of two things measured in turn in one process, with the sizes of Stable Diffusion
v1.4 where no UNet is drawn through. Results are kept in a file, so that benchmarks can be run one by one.
"""

import importlib
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realera.runtime.console import one_line_errors, quiet_libraries
from realera.store.artifacts import atomic_path

if TYPE_CHECKING:
    from benchmarks.page import Result
    from benchmarks.timing import Settings

FOLDER = Path(__file__).resolve().parent


class Name(StrEnum):
    """The benchmarks, each a module of this package with `measure(settings)`."""

    solve = "solve"
    mining = "mining"
    sums = "sums"
    lora = "lora"
    generation = "generation"
    graph = "graph"
    growth = "growth"
    classes = "classes"


def main(
    only: Annotated[list[Name] | None, typer.Option(help="Run this benchmark; may be given again. None: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and rounds.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, here and in processes that are started.")] = 2,
    full_size_unet: Annotated[
        bool, typer.Option("--full-size-unet", help="The LoRA step on Stable Diffusion v1.4's size (24 GiB).")
    ] = False,
    out: Annotated[Path, typer.Option(help="What is kept; other benchmarks in it stay.")] = FOLDER / "results.json",
    page: Annotated[Path | None, typer.Option(help="A Markdown page whose tables are replaced.")] = None,
    plot: Annotated[Path | None, typer.Option(help="An SVG to write.")] = None,
    no_run: Annotated[bool, typer.Option("--no-run", help="Measure nothing; page and plot of what is kept.")] = False,
) -> None:
    """Measure ratios side by side; print tables, keep them, and rewrite the page and the plot that are named."""
    with one_line_errors():
        _pin(threads)
        from benchmarks import page as pages
        from benchmarks.timing import Settings

        results = pages.read(out)
        settings = Settings("quick" if quick else "full", full_size_unet)
        for name in [] if no_run else (only or list(Name)):
            results[name] = run(name, settings, threads)
            pages.write(results, out)
            typer.echo(f"\n{pages.text({name: results[name]})}")
        if page is not None:
            importlib.import_module("tools.run_fullsize").put_into(page, pages.text(results))
        if plot is not None:
            with atomic_path(plot) as path:
                path.write_text(pages.plot(results), encoding="utf-8")


def run(name: str, settings: "Settings", threads: int) -> "Result":
    """Run a benchmark; return what it found and how it was measured."""
    from benchmarks.page import Result

    load, start = os.getloadavg()[0], time.monotonic()
    typer.echo(f"{name}: {threads} threads, load {load:.1f} before", err=True)
    module = importlib.import_module(f"benchmarks.{name}")
    quiet_libraries()
    section = module.measure(settings)
    machine = importlib.import_module("tools.run_fullsize").machine()
    where = f"{machine}; {threads} threads, load {load:.1f} before"
    return Result(section, settings.size, where, time.monotonic() - start)


def _pin(threads: int) -> None:
    """Fix the number of threads, also in what is started from here, and keep off the hub."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(threads)


if __name__ == "__main__":
    typer.run(main)
