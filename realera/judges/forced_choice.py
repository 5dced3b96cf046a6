"""Forced choices: which of a list of words does an image show?"""

from collections.abc import Iterator, Sequence

from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import Preset, distinct, spelled

CHOICES = {
    "erase": ("classes", "anchor"),
    "preserve": ("classes",),
    "synonym": ("classes", "anchor"),
    "associated": ("classes", "anchor"),
    "lookalike": ("lookalikes",),
    "unseen": ("unseen",),
    "anchor": ("classes",),
    "rows": (),
    "listed": ("classes",),
}
"""Group of an image -> the forced choices put to it."""


def choice_labels(preset: Preset, classes: Sequence[str], unseen: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each forced choice, without repeats.

    "classes": the classes, then targets that are not among them (section 5.1). "unseen": the
    same with concepts that no preserve set holds, "lookalikes" with the look-alikes beside the
    classes. "anchor": the classes, targets and anchors, which tells how often the anchor is what appears.

    Raises:
        ConfigError: there is nothing to choose beside the targets.
    """
    if all(spelled(word, preset.targets) for word in classes):
        raise ConfigError(f"classes: found {list(classes)}; accepted: a list with words beside the targets")
    lists = {
        "classes": (*classes, *preset.targets),
        "unseen": (*unseen, *preset.targets),
        "lookalikes": (*preset.draw.lookalikes, *classes, *preset.targets),
        "anchor": (*classes, *preset.targets, *preset.anchors),
    }
    return {metric: tuple(distinct(words)) for metric, words in lists.items()}


def choices_of(
    image: dict, labels: dict[str, tuple[str, ...]], source: object
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (name, words) of the forced choices that are put to an image.

    A prompt file may name concepts that are no classes: those are not asked about.

    Raises:
        ArtifactError: its group is not known, or its parent is not among the words.
    """
    if image["group"] not in CHOICES:
        raise ArtifactError(f"{source}: group: found {image['group']!r}; accepted: {', '.join(CHOICES)}")
    for name in CHOICES[image["group"]]:
        if image["group"] == "listed" and spelled(image["parent"], labels[name]) is None:
            continue
        if image["group"] != "listed" and image["parent"] not in labels[name]:
            raise ArtifactError(f"{source}: parent: found {image['parent']!r}; accepted: {', '.join(labels[name])}")
        yield name, labels[name]
