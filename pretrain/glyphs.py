"""Icons of user interfaces that name what they show: shapes without colors, which only the judge learns from."""

from collections.abc import Iterator
from pathlib import Path

import torch

from pretrain.config import Concept, Glyphs, Vocabulary
from pretrain.data import Icons
from pretrain.icons import Icon, read_icon_set, squash, svg


def find_glyphs(vocabulary: Vocabulary, packages: Path, params: Glyphs, vendor: str) -> Iterator[Icon]:
    """Yield every set's glyphs whose name is a word of the vocabulary followed by one of the set's endings.

    Args:
        vocabulary: concepts; of a class each word is looked for, of another concept its name alone, since
            sets draw other things under many synonyms (a "volume" is a loudspeaker).
        packages: folder of the fetched packages.
        params: the sets; a word in `left_out` is never looked for.
        vendor: what the icons are given as their vendor.
    """
    for label, glyph_set in params.sets.items():
        icon_set, known = read_icon_set(packages / glyph_set.package)
        for concept in vocabulary.concepts():
            words = [squash(word) for word in _words(concept) if word not in params.left_out]
            names = [known.get(f"{word}{ending}") for word in words for ending in glyph_set.endings]
            for name in dict.fromkeys(filter(None, names)):
                yield Icon(concept.name, concept.tier, "", vendor, f"{label}/{name}", svg(icon_set, name))


def _words(concept: Concept) -> tuple[str, ...]:
    return concept.words if concept.tier == "classes" else (concept.name,)


def joined(first: Icons, second: Icons) -> Icons:
    """Return the icons of both, in their order."""
    return Icons(
        torch.cat([first.rgba, second.rgba]),
        first.icon_ids + second.icon_ids,
        first.concepts + second.concepts,
        first.tiers + second.tiers,
        first.vendors + second.vendors,
    )
