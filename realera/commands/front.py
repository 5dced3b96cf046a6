"""What `realera erase` and `realera recipe` do."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from realera.erasures.artifact import Erasure, check_is_free
from realera.settings.errors import ConfigError
from realera.settings.recipes import flat, read_recipe
from realera.settings.yaml_file import read_value


def erase_model(
    model: Mapping[str, str | None],
    out: Path,
    targets: Sequence[str],
    anchors: Sequence[str],
    preserve: Sequence[str] | None,
    **options: Any,
) -> str:
    """Open a model, erase from it, write the erasure's folder; return what was done and how to open it.

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
    from realera.families.stable_diffusion import open_pipeline
    from realera.methods.front import erase
    from realera.runtime.console import quiet_libraries

    quiet_libraries()
    start = time.monotonic()
    pipe = open_pipeline(**{name: value for name, value in model.items() if value is not None})
    erasure = erase(pipe, list(targets), list(anchors), preserve=preserve, **options)
    erasure.save(out)
    return "\n".join(_summary(erasure, str(model["id"]), out, time.monotonic() - start))


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
        ConfigError: there is no such recipe.
    """
    return " ".join(f"-S {key}={_shown(value)}" for key, value in flat(read_recipe(recipe)))


def _shown(value: Any) -> str:
    """Return a value as DVC's overrides take it, in one word of a shell; 1e-05 would be text to YAML."""
    if isinstance(value, list | tuple):
        return f"[{','.join(_shown(item) for item in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.1e}" if isinstance(value, float) and "e" in repr(value) else str(value)


def _summary(erasure: Erasure, model: str, out: Path, seconds: float) -> Iterator[str]:
    about = erasure.about
    pairs = ", ".join(f"{target} -> {anchor}" for target, anchor in about.pairs)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    lora = ", and a LoRA on top" if erasure.adapter else ""
    yield f"erased     {pairs}, by {about.method}, in {seconds:.0f} s"
    yield f"changed    {len(erasure.overlay)} matrices of {model}{lora}"
    yield f"written    {out}: {size / 1e6:.1f} MB"
    yield ""
    yield "To draw with it:"
    yield ""
    yield "    import realera"
    yield "    from diffusers import StableDiffusionPipeline"
    yield ""
    yield f"    pipe = StableDiffusionPipeline.from_pretrained({model!r})"
    yield f"    realera.read_erasure({str(out)!r}).apply(pipe)   # .remove(pipe) takes it out again"
    yield f"    image = pipe({f'a photo of the {about.pairs[0][0]}'!r}).images[0]"
