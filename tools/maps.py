"""Smooth maps of the closed form over D1 and S2, by mining in closed form: no sample, no picture, a solve a point.

    dvc repro encode@automobile-as-printed
    python -m tools.maps automobile-as-printed --out docs/map-D1-S2.svg

Each point is equation 7 with M = N = inf. What it does is read where pictures come from, in the outputs of all K and V
matrices together: how much of the way to the anchor is left to the words that must fade and were not erased (the
preset's synonyms), and by how much the outputs of words that must stay (the other classes) move.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from markupsafe import Markup

from realera.families import cross_attention
from realera.families.stable_diffusion import open_pipeline
from realera.methods.common.closed_form import Gram
from realera.methods.realera.geometry import KINDS
from realera.methods.realera.moments import moments
from realera.methods.realera.perturb import pair_rows, thresholds
from realera.methods.realera.rows import solve_grams, target_rows
from realera.methods.realera.sums import add_expected, no_grams
from realera.runtime.console import one_line_errors, quiet_libraries
from realera.settings.config import Params, SamplerParams, load_params
from realera.settings.errors import MiningError
from realera.settings.presets import Preset, load_preset, load_templates, load_words
from realera.store.artifacts import atomic_path
from realera.store.paths import place
from realera.text.prompt_table import PromptTable
from realera.text.prompts import Prompt, embed, fill, locate
from realera.text.spans import aligned

CELL, LEFT, TOP, GAP = 12, 70, 60, 130
LEAST_ACCEPTANCE = 1e-3
TITLES = ("synonyms: way to the anchor left", "other classes: outputs moved")

Place = tuple[float, float]
"""D1 and S2."""

Rows = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Probes:
    """What is looked at, and the metric by which it is.

    Attributes:
        fading: tokens of the synonyms' prompts and those of the anchor's that they should act as, float64 [n, d].
        staying: tokens of other classes' prompts, float64 [n, d].
        metric: sum of W^T W over all K and V matrices: x^T metric x is the squared length of all outputs of x.
    """

    fading: Rows
    staying: torch.Tensor
    metric: torch.Tensor

    def left(self, mapping: torch.Tensor) -> float:
        """Return how much of the synonyms' way to the anchor is left: 1 untouched, 0 there."""
        own, anchors = self.fading
        return self._length(own @ mapping.T - anchors) / self._length(own - anchors)

    def moved(self, mapping: torch.Tensor) -> float:
        """Return by how much the outputs of what stays move, in parts of their length."""
        return self._length(self.staying @ mapping.T - self.staying) / self._length(self.staying)

    def _length(self, rows: torch.Tensor) -> float:
        return math.sqrt(float(((rows @ self.metric) * rows).sum()))


def main(
    concept: Annotated[str, typer.Argument(help="A preset that encode has been run for.")],
    out: Annotated[Path, typer.Option(help="The SVG to write.")],
    size: Annotated[int, typer.Option(min=2, help="Points along each parameter.")] = 30,
) -> None:
    """Compute and draw the two maps; print how long it took and where the ends lie."""
    with one_line_errors():
        quiet_libraries()
        start, params, preset = time.monotonic(), load_params(), load_preset(concept)
        table = PromptTable.read(place(concept).prompts)
        probes = read_probes(preset, params)
        places = [(float(d), float(s)) for s in np.linspace(0.7, 0.98, size) for d in np.linspace(0.05, 0.8, size)]
        found = {each: at(table, params, probes, *each) for each in places}
        with atomic_path(out) as path:
            path.write_text(svg(found, concept), encoding="utf-8")
        known = [value for value in found.values() if value is not None]
        spent = time.monotonic() - start
        typer.echo(f"{out}: {len(known)} of {len(found)} points have samples; {spent:.1f} s")
        for index, title in enumerate(TITLES):
            ends = [value[index] for value in known]
            typer.echo(f"{title}: {min(ends):.3f} to {max(ends):.3f}")


def at(table: PromptTable, params: Params, probes: Probes, radius: float, cosine: float) -> tuple[float, float] | None:
    """Return what `Probes` reads where D1 and S2 have these values; None where Algorithm 1 would not end."""
    anchor = min(params.sampler.D1_anchor, radius)
    changed = params.sampler.model_copy(update={"D1": radius, "S2": cosine, "D1_anchor": anchor})
    mapping = solved(table, changed, params)
    return None if mapping is None else (probes.left(mapping), probes.moved(mapping))


def solved(table: PromptTable, sampler: SamplerParams, params: Params) -> torch.Tensor | None:
    """Return the map [d, d] of equation 7 with infinitely many samples of both kinds."""
    rows, _, _ = pair_rows(table, table.pairs(sampler.span))
    sources, anchors = target_rows(table, table.pairs(sampler.span))
    try:
        expected = {kind: moments(kind, rows, thresholds(sampler)) for kind in KINDS}
    except MiningError:
        return None
    if min(float(each.acceptance.min()) for each in expected.values()) < LEAST_ACCEPTANCE:
        return None
    grams, kept = no_grams(table.width), Gram(table.width, stays=True)
    grams["target"].add(sources, anchors)
    kept.add(table.preserved())
    add_expected(grams, sources, anchors, expected)
    return solve_grams({**grams, "preserve": kept}, params.solver).map


def read_probes(preset: Preset, params: Params) -> Probes:
    """Encode the synonyms and the other classes in the preset's first template."""
    pipe = open_pipeline(**params.model.model_dump() | {"dtype": "float32", "device": "cpu"}, without=("vae",))
    template = load_templates(preset.templates)[0]
    pairs = [(word, anchor) for target, anchor in preset.pairs() for word in preset.synonyms.get(target, ())]
    fading = [_aligned(pipe, template, *pair, params.sampler.span) for pair in pairs]
    kept = [word for word in load_words(preset.classes) if word not in preset.targets]
    texts = [fill(template, word)[0] for word in kept]
    staying = embed(texts, pipe.tokenizer, pipe.text_encoder)[:, 1:].flatten(0, 1).double()
    weights = [weight.double() for weight in cross_attention.weights(pipe.unet).values()]
    metric = torch.stack([weight.T @ weight for weight in weights]).sum(0)
    own, anchors = (torch.cat(column) for column in zip(*fading, strict=True))
    return Probes((own, anchors), staying, metric)


def _aligned(pipe: object, template: str, word: str, anchor: str, span: str) -> Rows:
    prompts = [Prompt(*fill(template, name), "target") for name in (word, anchor)]
    tokenizer, encoder = pipe.tokenizer, pipe.text_encoder  # type: ignore[attr-defined]
    places = [locate(prompt, tokenizer) for prompt in prompts]
    own, other = embed([prompt.text for prompt in prompts], tokenizer, encoder).double()
    first, second = zip(*aligned(places[0], places[1], span, len(own)), strict=True)
    return own[list(first)], other[list(second)]


# --- drawing


def svg(found: dict[Place, tuple[float, float] | None], concept: str) -> str:
    """Return both maps side by side; a light square is a small value, a white one has no samples."""
    columns, lines = sorted({key[0] for key in found}), sorted({key[1] for key in found}, reverse=True)
    side, tall = CELL * len(columns), CELL * len(lines)
    width, height = 2 * (LEFT + side) + GAP, TOP + tall + 50
    parts = [
        Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
               'font-family="sans-serif" font-size="13"><rect width="{w}" height="{h}" fill="white"/>').format(
                   w=width, h=height),
        _text(width / 2, 20, f"{concept}: equation 7 by mining in closed form, M = N = inf", 15),
    ]  # fmt: skip
    for index, title in enumerate(TITLES):
        left = LEFT + index * (side + GAP)
        values = {key: value[index] for key, value in found.items() if value is not None}
        parts += _map(values, columns, lines, left, title)
    return str(Markup("\n").join([*parts, Markup("</svg>\n")]))


def _map(
    values: dict[Place, float], columns: Sequence[float], lines: Sequence[float], left: float, title: str
) -> list[Markup]:
    low, high = min(values.values()), max(values.values())
    side, tall = CELL * len(columns), CELL * len(lines)
    parts = [_text(left + side / 2, 44, f"{title} ({low:.2f} light, {high:.2f} dark)")]
    for (x, y), value in sorted(values.items()):
        place = left + CELL * columns.index(x), TOP + CELL * lines.index(y)
        parts.append(_square(*place, (value - low) / max(high - low, 1e-12), f"D1 {x:.3f}, S2 {y:.3f}: {value:.3f}"))
    for share in (0.0, 0.5, 1.0):
        at_x, at_y = columns[round(share * (len(columns) - 1))], lines[round(share * (len(lines) - 1))]
        parts.append(_text(left + share * (side - CELL) + CELL / 2, TOP + tall + 18, f"{at_x:.2f}"))
        parts.append(_text(left - 22, TOP + share * (tall - CELL) + CELL, f"{at_y:.2f}"))
    return [*parts, _text(left + side / 2, TOP + tall + 38, "sampler.D1"), _text(left - 22, TOP - 8, "sampler.S2")]


def _square(x: float, y: float, share: float, title: str) -> Markup:
    colour = f"rgb({round(255 - 205 * share)},{round(248 - 168 * share)},{round(240 - 100 * share)})"
    return Markup('<rect x="{:g}" y="{:g}" width="{}" height="{}" fill="{}"><title>{}</title></rect>').format(
        x, y, CELL, CELL, colour, title
    )


def _text(x: float, y: float, text: str, size: int = 13) -> Markup:
    template = '<text x="{:g}" y="{:g}" text-anchor="middle" font-size="{}">{}</text>'
    return Markup(template).format(x, y, size, text)


if __name__ == "__main__":
    typer.run(main)
