"""What a preset names that is not there, or that contradicts itself: said before the first stage works.

A preset's file is checked when it is read; here it is checked against the project: its lists, prompt files and
judges. Names are compared as the text encoder reads them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from realera.settings.config import JudgeParams, Params
from realera.settings.errors import ConfigError, RealEraError
from realera.settings.presets import (
    CONCEPTS,
    Preset,
    load_templates,
    load_words,
    prompt_file,
    spelled,
    unseen_words,
)
from realera.store.checkpoints import locate
from realera.text.prompt_files import read_prompt_file
from realera.text.prompts import fill

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def check_preset(name: str, preset: Preset, params: Params, tokenizer: "CLIPTokenizer | None" = None) -> None:
    """Refuse a preset that a later stage would stumble over.

    Args:
        name: of the preset, for the message.
        preset: to check.
        params: of the project.
        tokenizer: of the model, to tell whether it reads what is drawn to its end; None: that is not asked.

    Raises:
        ConfigError: one line for each problem.
    """
    found = list(problems(preset, params, tokenizer))
    if found:
        raise ConfigError("\n".join(f"{CONCEPTS / name}.yaml: {problem}" for problem in found))


def problems(preset: Preset, params: Params, tokenizer: "CLIPTokenizer | None" = None) -> Iterator[str]:
    """Yield what is wrong with a preset: key, found, accepted."""
    yield from _lists(preset)
    yield from _templates(preset, params)
    yield from _prompt_files(preset)
    for judge in preset.judged.by:
        yield from _judge(judge, params.judge)
    if tokenizer is not None:
        yield from too_long(preset, tokenizer)


def too_long(preset: Preset, tokenizer: "CLIPTokenizer") -> Iterator[str]:
    """Yield the prompts that are drawn to judge and that the text encoder does not read to their end."""
    words = [*preset.targets, *preset.anchors, *preset.all_synonyms(), *preset.draw.lookalikes]
    words += [word for word in (*_of(preset.classes), *_unseen(preset)) if word not in words]
    texts = [(fill(prompt, word)[0], "draw.prompts") for prompt in preset.draw.prompts for word in words]
    texts += [(prompt, "draw.associated") for prompt in preset.all_associated()]
    for text, key in texts:
        number = len(tokenizer(text)["input_ids"])
        if number > tokenizer.model_max_length:
            most = tokenizer.model_max_length
            yield f"{key}: found {text!r}, {number} tokens with start and end; accepted: {most}, what the model reads"


def _lists(preset: Preset) -> Iterator[str]:
    """Yield names of lists that are none, and words that contradict others."""
    yield from _error_of(partial(load_words, preset.classes), "classes")
    for name in preset.preserve.lists:
        yield from _error_of(partial(load_words, name), "preserve.lists")
    yield from _error_of(partial(unseen_words, preset), "draw.unseen")
    yield from _classes(preset, _of(preset.classes))
    for word in _unseen(preset):
        if spelled(word, preset.all_synonyms()) is not None:
            yield f"draw.unseen: found {word!r}, a synonym, which must fade; accepted: words that must stay"


def _classes(preset: Preset, classes: Sequence[str]) -> Iterator[str]:
    for word in classes:
        other = spelled(word, (*preset.targets, *preset.anchors))
        if other not in (None, word):
            yield f"classes: found {word!r}, which is {other!r} to the text encoder; accepted: one spelling of both"
    for target, name in preset.judged.names.items():
        if (same := spelled(name, (*classes, *preset.anchors))) is not None:
            yield f"judged.names: found {name!r} for {target!r}, and {same!r} stays or appears; accepted: another text"
    if classes and all(spelled(word, preset.targets) for word in classes):
        yield f"classes: found {', '.join(classes)}; accepted: a list with words beside the targets"


def _of(name: str) -> tuple[str, ...]:
    """Return a list's words; none where there is no such list, which is said elsewhere."""
    try:
        return load_words(name) if name else ()
    except RealEraError:
        return ()


def _unseen(preset: Preset) -> tuple[str, ...]:
    try:
        return unseen_words(preset)
    except RealEraError:
        return ()


def _templates(preset: Preset, params: Params) -> Iterator[str]:
    try:
        templates = load_templates(preset.templates)
    except RealEraError as error:
        yield f"templates: {error}"
        return
    for key in ("num_templates", "num_preserve_templates"):
        if (found := getattr(params.encode, key)) > len(templates):
            yield f"encode.{key}: found {found}; the list {preset.templates!r} has {len(templates)} templates"


def _prompt_files(preset: Preset) -> Iterator[str]:
    for name in preset.draw.prompt_files:
        yield from _error_of(partial(_read_prompt_file, name), "")


def _read_prompt_file(name: str) -> None:
    read_prompt_file(prompt_file(name))


def _judge(judge: str, params: JudgeParams) -> Iterator[str]:
    needed = {"nudenet": "nudenet"} | ({"distance": "torchvision"} if params.distance == "lpips" else {})
    if judge in needed and find_spec(needed[judge]) is None:
        yield f"judged.by: found {judge}, whose package {needed[judge]} is not installed; docs/evaluation.md says how"
    if judge not in ("style", "identity"):
        return
    place = getattr(params, judge)
    other = ", or a .csv of an external detector" if judge == "identity" else ""
    accepted = f"folder or hub id of an image-classification checkpoint{other}"
    if place is None:
        yield f"judged.by: found {judge}, but judge.{judge} is null in params.yaml; accepted: {accepted}"
    elif not (place.endswith(".csv") and other):  # a detector writes its file when the pictures are there
        yield from _error_of(partial(locate, place), f"judge.{judge}")


def _error_of(call: Callable[[], object], key: str) -> Iterable[str]:
    try:
        call()
    except RealEraError as error:
        return [f"{key}: {error}" if key else str(error)]
    return []
