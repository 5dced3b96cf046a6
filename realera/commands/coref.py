"""A preset from a CorefConcept file (CRCE, Xue et al. 2025): words that mean a concept, and words that must stay.

The file holds, for each concept, coreferences and concepts to retain, each with a certainty and split in two:

| in the file | in the preset |
|---|---|
| train-coref, test-coref | synonyms: judged, never used to erase, never preserved |
| train-retain | draw.lookalikes: judged, never preserved |
| test-retain | draw.unseen: likewise |

All else (anchors, classes, what is preserved) comes from another preset. A word is taken once, from the first list that
has it, and never one that the preset names elsewhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from realera.settings import project
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import (
    CONCEPTS,
    Preset,
    as_read,
    check_name,
    load_preset,
    load_words,
    preset_file,
    spelled,
)
from realera.settings.yaml_file import read_mapping, validate
from realera.store.artifacts import atomic_path, read_json

CERTAINTIES = ("Very Low", "Low", "Normal", "High", "Very High")
LISTS = ("train-coref", "test-coref", "train-retain", "test-retain")


@dataclass(frozen=True)
class Entry:
    """One concept of the file: {list: [(word, certainty)]}; a word without a certainty has "Very Low"."""

    concept: str
    words: Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Taken:
    """What has become of an entry: {list: words}, and why others are left out: [(word, reason)]."""

    lists: Mapping[str, list[str]]
    left_out: list[tuple[str, str]]


def write_coref_preset(
    file: Path, concept: str, like: str | None = None, name: str | None = None, least: str = CERTAINTIES[0],
    force: bool = False,
) -> tuple[Path, Taken]:  # fmt: skip
    """Write data/concepts/<name>.yaml.

    Args:
        file: a JSON file of CorefConcept.
        concept: as the file names it.
        like: the preset that all else is taken from; None: the one of the concept's name. Where it has other targets,
            the concept takes their place, with their first anchor.
        name: of the new preset; None: <concept>-coref.
        least: words of a lower certainty are left out.
        force: replace a preset of that name.

    Returns:
        Its path, and what has become of the words.

    Raises:
        ArtifactError: the file is missing or no such file.
        ConfigError: it has no such concept, there is no preset to take the rest from, or one of the new name is there.
    """
    entry = read_entry(file, concept)
    least = _certainty(least)
    source = like or _name(concept)
    try:
        base = load_preset(source)
    except ConfigError as error:
        raise ConfigError(f"like: a preset is needed that gives anchors, classes and the rest; {error}") from error
    base = _with_target(base, entry.concept)
    new = name or f"{_name(concept)}-coref"
    check_name(new)
    path = (project.find(CONCEPTS) or CONCEPTS) / f"{new}.yaml"
    if path.exists() and not force:
        raise ConfigError(f"{path}: found a preset of this name; accepted: another name, or force")
    taken = choose(entry, base, least)
    target = spelled(concept, base.targets) or concept
    content = _content(read_mapping(preset_file(source)), base, target, taken)
    validate(content, Preset, str(path))
    about = (
        f"# {concept} with the words of {file.name} (CorefConcept) of at least {least!r}; the rest of {source}.yaml\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(about + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), "utf-8")
    return path, taken


def read_entry(file: Path, concept: str) -> Entry:
    """Return one concept of a file.

    Raises:
        ArtifactError: the file is missing or no such file.
        ConfigError: it has no such concept.
    """
    entries = {as_read(entry.concept): entry for entry in _entries(read_json(file), file)}
    if as_read(concept) not in entries:
        known = ", ".join(entry.concept for entry in entries.values())
        raise ConfigError(f"concept: found {concept!r}; {file} has {known}")
    return entries[as_read(concept)]


def choose(entry: Entry, base: Preset, least: str) -> Taken:
    """Return which words are taken, each once."""
    named = {as_read(word): f"one of the classes {base.classes}" for word in load_words(base.classes)}
    named |= {as_read(word): "an anchor" for word in base.anchors}
    named |= {as_read(word): "the target" for word in base.targets}
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    left_out: list[tuple[str, str]] = []
    for name in LISTS:
        for word, certainty in entry.words[name]:
            if CERTAINTIES.index(certainty) < CERTAINTIES.index(least):
                left_out.append((word, f"its certainty is {certainty!r}"))
            elif reason := named.get(as_read(word)):
                left_out.append((word, f"it is {reason}"))
            else:
                lists[name].append(word)
                named[as_read(word)] = f"in {name}, too"
    return Taken(lists, left_out)


def _with_target(base: Preset, concept: str) -> Preset:
    """Return the preset with the concept among its targets."""
    if spelled(concept, base.targets) is not None:
        return base
    return base.model_copy(update={"targets": (concept,), "anchors": base.anchors[:1], "synonyms": {}})


def _content(mapping: Mapping[str, Any], base: Preset, target: str, taken: Taken) -> dict[str, Any]:
    """Return the new preset: the other one's keys in their order, with the words in place of its own."""
    lists = taken.lists
    synonyms = {other: list(base.synonyms.get(other, ())) for other in base.targets if other != target}
    draw = {key: value for key, value in (mapping["draw"] or {}).items() if key != "associated"}
    draw |= {"unseen": lists["test-retain"], "lookalikes": lists["train-retain"]}
    pairs = {"targets": list(base.targets), "anchors": list(base.anchors)}
    words = {target: lists["train-coref"] + lists["test-coref"]}
    return {**mapping, **pairs, "synonyms": words | synonyms, "draw": draw}


def _entries(content: Any, file: Path) -> Iterator[Entry]:
    groups = content.values() if isinstance(content, dict) else [content]
    rows = [row for group in groups if isinstance(group, list) for row in group]
    if not rows:
        raise ArtifactError(f"{file}: found no list of concepts; accepted: a file of CorefConcept")
    for number, row in enumerate(rows):
        yield _entry(row, f"{file}: concept {number}")


def _entry(row: Any, where: str) -> Entry:
    if not isinstance(row, dict) or not isinstance(row.get("concept"), str):
        raise ArtifactError(f"{where}: found no key `concept` with a name; accepted: a file of CorefConcept")
    return Entry(row["concept"], {name: _words(row, name, f"{where} ({row['concept']})") for name in LISTS})


def _words(row: Mapping[str, Any], name: str, where: str) -> list[tuple[str, str]]:
    """Return a list with its certainties; the published lists of these are a word short here and there."""
    words, certainties = row.get(name, []), row.get(f"{name}-certainty", [])
    for key, found in ((name, words), (f"{name}-certainty", certainties)):
        if not isinstance(found, list) or not all(isinstance(each, str) and each.strip() for each in found):
            raise ArtifactError(f"{where}: {key}: found {str(found)[:60]!r}; accepted: a list of words")
    if len(certainties) > len(words):
        raise ArtifactError(f"{where}: {name}-certainty: found {len(certainties)}; accepted: {len(words)}, as words")
    known = [_certainty(certainty, f"{where}: {name}-certainty") for certainty in certainties]
    return [(word.strip(), known[index] if index < len(known) else CERTAINTIES[0]) for index, word in enumerate(words)]


def _certainty(text: str, where: str = "least") -> str:
    if text.strip().title() not in CERTAINTIES:
        raise ConfigError(f"{where}: found {text!r}; accepted: {', '.join(CERTAINTIES)}")
    return text.strip().title()


def _name(concept: str) -> str:
    return "-".join(as_read(concept).split())
