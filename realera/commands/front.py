"""What `realera erase` and `realera recipe` do."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from realera.erasures.artifact import Erasure, check_is_free
from realera.settings.config import ModelParams
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.recipes import flat, read_recipe
from realera.settings.yaml_file import read_value, validate

_PLAIN = re.compile(r"[\w./:@+-]+")
"""Text that a shell leaves as it is, and DVC reads as one value."""


def erase_model(
    model: Mapping[str, str | None],
    out: Path,
    targets: Sequence[str],
    anchors: Sequence[str],
    preserve: Sequence[str] | None,
    **options: Any,
) -> str:
    """Open a model, erase from it, write the erasure's folder; return what was done and how to open it.

    The model is opened from its checkpoint wherever the stages do so, in their precision: on a GPU, too, the result is
    theirs and fits the checkpoint's own weights.

    Args:
        model: id, revision, config, dtype and device, as in params.yaml; None: the default.
        out: a new or empty folder, or an earlier erasure, which is replaced.
        targets: what is erased.
        anchors: what is drawn instead.
        preserve: words that stay; None: the default.
        options: of `realera.erase`.

    Raises:
        RealEraError: see `realera.erase`; nothing is written then.
    """
    check_is_free(out)
    _check_writable(out)
    from realera.families.stable_diffusion import open_pipeline
    from realera.methods.front import ask, carry_out, kept_words
    from realera.runtime.console import quiet_libraries

    quiet_libraries()
    start = time.monotonic()
    opened = partial(
        open_pipeline, **{name: value for name, value in model.items() if value is not None}, scheduler=None
    )
    pipe = opened()
    request = ask(pipe, list(targets), list(anchors), preserve, **options)
    given = {name: value or ("auto" if name in ("dtype", "device") else None) for name, value in model.items()}
    erasure = carry_out(request.of(validate(given, ModelParams, "model")), pipe, opened)
    erasure.save(out)
    done = _done(erasure, out, len(kept_words(request, pipe)), time.monotonic() - start)
    return "\n".join([*done, "", "To draw with it:", "", *_lines(erasure, given, out)])


def read_words(path: Path) -> list[str]:
    """Return the words of a text file, one a line; blank lines are passed over.

    Raises:
        ConfigError: the file cannot be read, or has no words.
    """
    try:
        words = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--preserve-file: {path}: cannot be read: {error}") from error
    if not words:
        raise ConfigError(f"--preserve-file: {path}: found no words; accepted: one a line")
    return list(dict.fromkeys(words))


def read_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Return {"lora.steps": 10} of "lora.steps=10".

    Raises:
        ConfigError: one is no key=value, or its value is not YAML.
    """
    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set: found {pair!r}; accepted: key=value, such as lora.steps=50")
        found[key] = read_value(value)
    return found


def recipe_options(recipe: str) -> str:
    """Return a recipe as options of `dvc exp run`.

    Raises:
        ConfigError: there is no such recipe, or a shell would take one of its values apart.
    """
    return " ".join(f"-S {key}={_shown(key, value)}" for key, value in flat(read_recipe(recipe)))


def _shown(key: str, value: Any) -> str:
    """Return a value as DVC's overrides take it, in one word of a shell.

    Raises:
        ConfigError: that is not possible.
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(_shown(key, item) for item in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int | float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))  # 1e-05 would be text to YAML
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        raise ConfigError(f"recipe: {key}: found {value!r}; accepted as an option: letters, digits and ./:@+-_")
    return value


def _check_writable(out: Path) -> None:
    """Refuse a place where nothing can be written, before the work instead of after it.

    Raises:
        ArtifactError: so it is.
    """
    present = next(folder for folder in out.absolute().parents if folder.exists())
    if not (present.is_dir() and os.access(present, os.W_OK)):
        raise ArtifactError(f"{out}: cannot be written: {present} is no folder that can be written to")


def _done(erasure: Erasure, out: Path, num_kept: int, seconds: float) -> Iterator[str]:
    """Yield what was done."""
    about = erasure.about
    pairs = ", ".join(f"{target} -> {anchor}" for target, anchor in about.pairs)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    lora = ", and a LoRA on top" if erasure.adapter else ""
    yield f"erased     {pairs}, by {about.method}, in {seconds:.0f} s"
    yield f"kept       {num_kept} words"
    yield f"changed    {len(erasure.overlay)} matrices of {about.base.id}{lora}"
    yield f"written    {out}: {size / 1e6:.1f} MB"


def _lines(erasure: Erasure, model: Mapping[str, str | None], out: Path) -> Iterator[str]:
    """Yield the lines of Python that open the model and put the erasure in."""
    names = ["config"] if str(model["id"]).endswith(".safetensors") else ["revision"]
    loader = "from_single_file" if names == ["config"] else "from_pretrained"
    more = "".join(f", {name}={model[name]!r}" for name in names if model[name])
    yield "    import realera"
    yield "    from diffusers import StableDiffusionPipeline"
    yield ""
    yield f"    pipe = StableDiffusionPipeline.{loader}({model['id']!r}{more})"
    yield f"    realera.read_erasure({str(out)!r}).apply(pipe)   # .remove(pipe) takes it out again"
    yield f"    image = pipe({f'a photo of the {erasure.about.pairs[0][0]}'!r}).images[0]"
