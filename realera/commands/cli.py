"""The command line. Heavy imports wait inside the commands, so that `--help` answers at once."""

import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realera.runtime.console import one_line_errors, quiet_libraries
from realera.settings.errors import RealEraError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    from realera.erasures.finished import Finished
    from realera.settings.config import Params

app = typer.Typer(
    help="Erase a concept from a text-to-image model, and see what it draws.",
    no_args_is_help=True,
    add_completion=False,
)

data = typer.Typer(help="Benchmarks' prompt files and words.", no_args_is_help=True)
app.add_typer(data, name="data")

Prompt = Annotated[str, typer.Argument(help="What to draw, for instance 'a photo of a cat'.")]
MethodOption = Annotated[str | None, typer.Option("--method", help="By which it was erased; else the first of params.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the first image.")]
Num = Annotated[int, typer.Option(min=1, help="Images, with seeds one after the other, in a grid.")]
Out = Annotated[Path, typer.Option(help="The PNG to write.")]
ModelId = Annotated[str | None, typer.Option(help="Folder, hub id or .safetensors file.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Scheduler = Annotated[str | None, typer.Option(help="model, ddim, pndm, euler or dpmsolver.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps.")]
Guidance = Annotated[float | None, typer.Option(min=0, help="Weight of the prompt.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images at once.")]
ParamsFile = Annotated[Path, typer.Option(help="Parameters that the options override.")]
PARAMS = Path("params.yaml")


class Format(StrEnum):
    """The values of `--format`; `realera.exports.export.FORMATS` says what each one writes."""

    pipeline = "pipeline"
    kv = "kv"
    lora = "lora"
    single_file = "single-file"


class PromptFileKind(StrEnum):
    """Kinds of files that `realera.text.prompt_files` reads."""

    i2p = "i2p"
    coco = "coco"
    list = "list"
    names = "names"
    pairs = "pairs"


class FileDtype(StrEnum):
    """Number formats of weights on disk."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@app.command()
def draw(
    prompt: Prompt,
    out: Out = Path("out.png"),
    seed: Seed = 0,
    num: Num = 1,
    concept: Annotated[str | None, typer.Option(help="Draw with the model that this was erased from.")] = None,
    erasure: Annotated[Path | None, typer.Option(help="Draw with this folder of an erasure.")] = None,
    method: MethodOption = None,
    model: ModelId = None,
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    scheduler: Scheduler = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    batch_size: BatchSize = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Draw a prompt to a PNG; several images make a grid."""
    with one_line_errors():
        _check_suffix(out)
        given = _with_options(
            _load_params(params),
            {"id": model, "revision": revision, "dtype": dtype, "device": device},
            {
                "scheduler": scheduler,
                "num_inference_steps": steps,
                "guidance_scale": guidance_scale,
                "batch_size": batch_size,
            },
        )
        if erasure is not None and concept is not None:
            raise RealEraError("--erasure: found --concept, too; accepted: one of them")
        seeds = _seeds(seed, num)
        pipe = _open(given, concept, method, erasure)
        images = _draw(pipe, prompt, seeds, given)
        _save_grid(images, min(num, 8), out)
        typer.echo(out)


@app.command()
def compare(
    prompt: Prompt,
    concept: Annotated[str, typer.Option(help="What was erased: a preset's name.")],
    out: Out = Path("compare.png"),
    seed: Seed = 0,
    num: Annotated[int, typer.Option(min=1, max=32, help="Pairs, with seeds one after the other.")] = 4,
    method: MethodOption = None,
    device: Device = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Draw a prompt with the base and the erased model: base above, erased below, same seeds."""
    with one_line_errors():
        _check_suffix(out)
        drawing = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
        given = _with_options(_load_params(params), {"device": device}, drawing)
        seeds = _seeds(seed, num)
        files = _find(given, concept, method)
        from realera.erasures.apply import apply_erasure

        pipe = _open(given)
        images = _draw(pipe, prompt, seeds, given)
        apply_erasure(pipe, files.folder)
        with warnings.catch_warnings(action="ignore"):  # what there is to say of the prompt has been said
            images += _draw(pipe, prompt, seeds, given)
        _save_grid(images, num, out)
        typer.echo(out)


@app.command()
def export(
    concept: Annotated[str, typer.Argument(help="What was erased: a preset's name, for instance airplane.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    format: Annotated[
        Format,
        typer.Option(
            help="pipeline: a diffusers folder. kv: the cross-attention's K and V weights. lora: the LoRA, with the "
            "weights that it belongs on. single-file: one file for ComfyUI and A1111."
        ),
    ] = Format.pipeline,
    keep_lora: Annotated[bool, typer.Option("--keep-lora", help="Leave the LoRA out of the weights.")] = False,
    dtype: Annotated[FileDtype, typer.Option(help="Of the weights on disk.")] = FileDtype.float32,
    tolerance: Annotated[
        float, typer.Option(min=0, max=0.5, help="single-file: the part of a change that ranks may leave out.")
    ] = 1e-5,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    method: MethodOption = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Write an erasure as a folder for others, with a model card."""
    with one_line_errors():
        given = _load_params(params)
        files = _find(given, concept, method)
        from realera.exports.card import Options
        from realera.exports.export import export as write_export

        quiet_libraries()
        write_export(files, format.value, out, Options(keep_lora, dtype.value, tolerance), force)
        typer.echo(out)


@app.command()
def erase(
    model: Annotated[str, typer.Option(help="Folder, hub id or .safetensors file.")],
    target: Annotated[list[str], typer.Option(help="What is erased; may be given again.")],
    anchor: Annotated[list[str], typer.Option(help="What is drawn instead: one, or one for each target.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder, or an earlier erasure.")],
    synonym: Annotated[list[str] | None, typer.Option(help="Another word for the target: not preserved.")] = None,
    preserve: Annotated[list[str] | None, typer.Option(help="A word that stays; may be given again.")] = None,
    preserve_file: Annotated[Path | None, typer.Option(help="Words that stay, one a line.")] = None,
    method: Annotated[str, typer.Option(help="realera or uce.")] = "realera",
    task: Annotated[str, typer.Option(help="object, celebrity, style or explicit.")] = "object",
    recipe: Annotated[str | None, typer.Option(help="tiny, sd15 or a YAML file; else by the model's size.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of params.yaml; may be given again.")
    ] = None,
    revision: Revision = None,
    config: Annotated[str | None, typer.Option(help="Of a single file: folder or hub id of its architecture.")] = None,
    dtype: Dtype = None,
    device: Device = None,
) -> None:
    """Erase a concept from a model: no project and no DVC are needed."""
    with one_line_errors("interrupted; the same command goes on from there"):
        from realera.commands.front import erase_model, read_settings, read_words

        words = [*(preserve or ()), *(read_words(preserve_file) if preserve_file else ())]
        source = {"id": model, "revision": revision, "config": config, "dtype": dtype, "device": device}
        options = {"synonyms": synonym or (), "method": method, "task": task, "recipe": recipe}
        settings = read_settings(set_ or ())
        typer.echo(erase_model(source, out, target, anchor, words or None, settings=settings, **options))


@app.command()
def solve(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, or one of an earlier call.")],
    add: Annotated[list[str] | None, typer.Option(help="A preset whose targets are erased, too, once mined.")] = None,
    withdraw: Annotated[list[str] | None, typer.Option(help="A target, or a preset, that shall come back.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Erase many concepts by one closed form: add and withdraw them in a folder, by the sums that mine has kept."""
    with one_line_errors():
        given = _load_params(params)
        from realera.commands.together import solve_together

        quiet_libraries()
        typer.echo(solve_together(folder, add or (), withdraw or (), given))


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="tiny, sd15 or a YAML file.")]) -> None:
    """Print a recipe as options for DVC: dvc exp run $(realera recipe sd15)."""
    with one_line_errors():
        from realera.commands.front import recipe_options

        typer.echo(recipe_options(name))


@app.command()
def results() -> None:
    """Print the figures of the last `dvc repro` before and after the erasure, and where its report is."""
    with one_line_errors():
        from realera.report.results import result_table
        from realera.store.paths import FIGURES, REPORTS

        typer.echo(result_table(FIGURES))
        typer.echo(f"\nreport: {REPORTS / 'index.html'}")


@data.command("add")
def add_prompt_file(
    source: Annotated[Path, typer.Argument(help="A CSV file; addresses are for dvc import-url.")],
    kind: Annotated[PromptFileKind | None, typer.Option(help="Whose columns it must have; else they tell.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name in presets; else the kind's or the file's.")] = None,
    sha256: Annotated[str | None, typer.Option(help="What its bytes must have, 64 hex digits.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace another file of this name.")] = False,
    skip_bad_rows: Annotated[bool, typer.Option("--skip-bad-rows", help="Leave out what cannot be drawn.")] = False,
) -> None:
    """Check a prompt file, every row of it, and copy it into data/prompt_files."""
    with one_line_errors():
        from realera.text.prompt_imports import add

        added = add(source, kind, name=name, sha256=sha256, force=force, skip_bad_rows=skip_bad_rows)
        typer.echo(added.line())


@data.command("preset")
def coref_preset(
    source: Annotated[Path, typer.Argument(help="A JSON file of CorefConcept.")],
    concept: Annotated[str, typer.Option(help="One of its concepts.")],
    like: Annotated[str | None, typer.Option(help="Preset that gives the rest; else the concept's own.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the new preset; else <concept>-coref.")] = None,
    least: Annotated[str, typer.Option(help="Words of a lower certainty are left out.")] = "Very Low",
    force: Annotated[bool, typer.Option("--force", help="Replace a preset of this name.")] = False,
) -> None:
    """Make a preset of a CorefConcept file: its synonyms, its look-alikes, its unseen words."""
    with one_line_errors():
        from realera.commands.coref import write_coref_preset

        path, taken = write_coref_preset(source, concept, like, name, least, force)
        for word, reason in taken.left_out:
            typer.echo(f"left out {word!r}: {reason}")
        typer.echo(f"{path}: {', '.join(f'{len(words)} {key}' for key, words in taken.lists.items())}")


@app.command()
def manifest(
    concept: Annotated[str, typer.Argument(help="A preset whose images are drawn.")],
    out: Annotated[Path, typer.Option(help="A new folder, or an earlier manifest.")],
    params: ParamsFile = PARAMS,
) -> None:
    """Write both models' images as files with a list, for a detector of faces that runs elsewhere."""
    with one_line_errors():
        from realera.judges.pictures import read_erased, read_originals, with_model
        from realera.judges.predictions import write_manifest
        from realera.settings.presets import load_preset

        preset, methods = load_preset(concept), _load_params(params).methods
        images = read_originals(concept, preset) + [read_erased(concept, preset, method) for method in methods]
        write_manifest(with_model(images), out)
        typer.echo(out)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="An experiment, branch, tag or commit, or workspace.")],
    second: Annotated[str, typer.Argument(help="What it is compared with.")] = "workspace",
    concept: Annotated[list[str] | None, typer.Option(help="Only this preset; may be given again.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Of both; given twice: of each.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Say which figures of the erased model moved between two experiments, with the interval of pairs."""
    with one_line_errors():
        from realera.commands import diff as comparing
        from realera.settings.presets import load_preset

        given = _load_params(params)
        for name in concept or given.concepts:
            before, after = (
                comparing.read_scores(revision, name, by)
                for revision, by in zip((first, second), comparing.two_methods(given, method), strict=True)
            )
            summary = comparing.compare(before, after, given.score, load_preset(name))
            typer.echo(f"{name}: before is {first}, after is {second}\n{comparing.as_text(summary)}")
            moved = ", ".join(f"{metric} ({reading})" for metric, reading, _ in comparing.moved(summary))
            typer.echo(f"moved, by an interval that excludes 0: {moved or 'nothing'}")
            if summary["unpaired"]:
                typer.echo(f"left out, as only one of the two has it: {summary['unpaired']} judgements")


@app.command()
def doctor(params: Annotated[Path, typer.Option(help="Parameters that name the models.")] = PARAMS) -> None:
    """Say what is installed and found here; exits with 1 if something needed is missing."""
    from realera.commands.doctor import examine

    findings = examine(params)
    for finding in findings:
        typer.echo(finding.line())
    if any(finding.is_bad for finding in findings):
        raise typer.Exit(1)


def _open(
    params: "Params", concept: str | None = None, method: str | None = None, folder: Path | None = None
) -> "StableDiffusionPipeline":
    """Open the model of the parameters; with a concept or an erasure's folder, the model that it was erased from."""
    if concept is not None:
        folder = _find(params, concept, method).folder
    from realera.drawing.many import Source

    quiet_libraries()
    return Source(params.model, folder).open(params.generate.scheduler, params.generate)


def _seeds(first: int, number: int) -> range:
    """Return the images' seeds.

    Raises:
        RealEraError: they pass the greatest one, after which noise repeats.
    """
    from realera.settings.config import MAX_SEED

    if first + number - 1 > MAX_SEED:
        raise RealEraError(f"--seed: found {first} for {number} images; accepted: up to {MAX_SEED} for the last one")
    return range(first, first + number)


def _draw(pipe: "StableDiffusionPipeline", prompt: str, seeds: range, params: "Params") -> list["Image.Image"]:
    from realera.drawing import batch
    from realera.text.prompts import unread

    options = params.generate.model_dump(include={"num_inference_steps", "guidance_scale", "batch_size"})
    if lost := unread(prompt, pipe.tokenizer):
        warnings.warn(f"the model reads {pipe.tokenizer.model_max_length} tokens; lost: {lost!r}", stacklevel=2)
    progress = len(seeds) > 1 and sys.stderr.isatty()
    return list(batch.draw(pipe, [prompt] * len(seeds), seeds, progress=progress, **options))


def _find(params: "Params", concept: str, method: str | None) -> "Finished":
    from realera.erasures.finished import find_erasure

    return find_erasure(concept, params, method)


def _load_params(path: Path) -> "Params":
    from realera.settings.config import load_params

    return load_params(path)


def _with_options(params: "Params", model: dict[str, Any], drawing: dict[str, Any]) -> "Params":
    """Return the parameters with the options that were given."""
    sections = {
        "model": params.model.model_copy(update=_given_model(model)),
        "generate": params.generate.model_copy(update=_given(drawing)),
    }
    return params.model_copy(update=sections)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _given_model(options: dict[str, Any]) -> dict[str, Any]:
    """Return the given options; another model does not take over revision and config of the section's."""
    dropped = {} if options.get("id") is None else {"revision": None, "config": None}
    return dropped | _given(options)


def _save_grid(images: list["Image.Image"], columns: int, path: Path) -> None:
    from realera.drawing.batch import image_grid
    from realera.store.artifacts import atomic_path

    with atomic_path(path) as temporary:
        image_grid(images, columns).save(temporary, format="PNG")


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() != ".png" or path.is_dir():
        raise RealEraError(f"--out: found {str(path)!r}; accepted: the name of a .png file")


if __name__ == "__main__":
    app()
