"""The command line. Heavy imports wait inside the commands, so that `--help` answers at once."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from realera.errors import RealEraError

app = typer.Typer(
    help="Erase a concept from a text-to-image model, and see what it draws.",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def main() -> None:
    """Keep `draw` a named command while it is the only one."""


@app.command()
def draw(
    prompt: Annotated[str, typer.Argument(help="What to draw, for instance 'a photo of a cat'.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("out.png"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first image.")] = 0,
    num: Annotated[int, typer.Option(min=1, help="Images, with seeds one after the other, in a grid.")] = 1,
    model: Annotated[str | None, typer.Option(help="Folder, hub id or .safetensors file.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="model, ddim, pndm, euler or dpmsolver.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=0, help="Weight of the prompt.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once.")] = None,
    params: Annotated[Path, typer.Option(help="Parameters that the options override.")] = Path("params.yaml"),
) -> None:
    """Draw a prompt to a PNG; several images make a grid."""
    with _one_line_errors():
        _check_suffix(out)
        given = _load_params(params)
        model_options = _override(given.model, id=model, revision=revision, dtype=dtype, device=device)
        draw_options = _override(
            given.draw,
            scheduler=scheduler,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
        )
        images = _draw(prompt, range(seed, seed + num), model_options, draw_options)
        _save_grid(images, out)
        typer.echo(out)


def _draw(prompt: str, seeds: range, model_options: dict[str, Any], draw_options: dict[str, Any]) -> list:
    _quiet_libraries()
    from realera import models, sampling

    scheduler = draw_options.pop("scheduler")
    pipe = models.open_pipeline(**model_options)
    models.use_scheduler(pipe, scheduler)
    progress = len(seeds) > 1 and sys.stderr.isatty()
    return list(sampling.draw(pipe, [prompt] * len(seeds), seeds, progress=progress, **draw_options))


def _load_params(path: Path) -> Any:
    from realera.config import load_params

    return load_params(path)


def _override(section: Any, **options: Any) -> dict[str, Any]:
    """Return the section's values with the options that were given.

    Another model than the section's does not take over its revision and config.
    """
    values = section.model_dump()
    if options.get("id") is not None:
        values |= {"revision": None, "config": None}
    return values | {name: value for name, value in options.items() if value is not None}


def _save_grid(images: list, path: Path) -> None:
    from realera.artifacts import atomic_path
    from realera.sampling import image_grid

    columns = min(len(images), 8)
    with atomic_path(path) as temporary:
        image_grid(images, columns).save(temporary, format="PNG")


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() != ".png" or path.is_dir():
        raise RealEraError(f"--out: found {str(path)!r}; accepted: the name of a .png file")


def _quiet_libraries() -> None:
    """Hide the loading bars and advice of the libraries; errors and our warnings stay."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Print what the user did wrong, and warnings, without traceback or source line."""
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        try:
            yield
        except (RealEraError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error


def _print_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        typer.echo(f"warning: {message}", err=True)


if __name__ == "__main__":
    app()
