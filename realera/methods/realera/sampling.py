"""Mine: from prompts.parquet to samples.parquet, moments.parquet, mining.json and the sums of both."""

import warnings
from collections.abc import Iterator

import pyarrow as pa

from realera.methods.realera.moments import NAMES
from realera.methods.realera.perturb import Summary, expect, pair_rows, sample_blocks
from realera.methods.realera.samples import SampleTable, read_blocks, write_blocks
from realera.methods.realera.sums import Expected, target_sums, write_sums
from realera.settings.config import Params, SamplerParams
from realera.settings.presets import Preset
from realera.store.artifacts import write_json, write_parquet
from realera.store.paths import REALERA, Place
from realera.text.prompt_table import PromptTable

MOMENTS = pa.schema(
    [("prompt_id", pa.int32()), ("token", pa.int32()), ("kind", pa.string())]
    + [(name, pa.float64()) for name in ("distance", "cosine", *NAMES)]
)
"""Columns of moments.parquet: a row for each kind and perturbed token."""


def mine(place: Place, preset: Preset, params: Params) -> None:
    """Write the neighbor and beyond samples of the targets' prompts (Algorithm 1), what they are, and their sums.

    A kind whose number is infinite has moments in place of samples; without such a kind moments.parquet is empty, and
    samples.parquet is where all are infinite.

    Raises:
        MiningError: no sample can fulfil the thresholds.
        ArtifactError: the prompts are missing or corrupt.
    """
    own, table = place.of(REALERA), PromptTable.read(place.prompts)
    for each in table.not_erased():
        warnings.warn(each.sentence(), stacklevel=2)
    summary, phrases = Summary(table), list[str]()
    write_blocks(_blocks(table, preset, params, summary, phrases), own.samples)
    expected = expect(table, params.sampler)
    write_parquet(_moments(table, params.sampler, expected, summary), own.moments)
    more = {"phrases": phrases, "not_erased": [each._asdict() for each in table.not_erased()]}
    write_json(summary.report(params.sampler.source) | more, own.mining)
    write_sums(target_sums(table, params.sampler, expected, lambda: read_blocks(own.samples)), own.sums)


def _moments(table: PromptTable, params: SamplerParams, expected: Expected, summary: Summary) -> pa.Table:
    """Return the content of moments.parquet; `summary` counts it."""
    rows, prompts, tokens = pair_rows(table, table.pairs(params.span))
    length, parts = rows.double().norm(dim=1), [MOMENTS.empty_table()]
    for kind, found in expected.items():
        summary.add_expected(kind, found, rows)
        numbers = {"distance": found.distance(table.width), "cosine": found.typical_cosine(length, table.width)}
        numbers |= {name: getattr(found, name) for name in NAMES}
        columns = {"prompt_id": prompts, "token": tokens, "kind": [kind] * len(rows)}
        columns |= {name: values.numpy() for name, values in numbers.items()}
        parts.append(pa.table([pa.array(columns[field.name], field.type) for field in MOMENTS], MOMENTS))
    return pa.concat_tables(parts)


def _blocks(
    table: PromptTable, preset: Preset, params: Params, summary: Summary, phrases: list[str]
) -> Iterator[SampleTable]:
    """Yield the samples block by block; `summary` counts them, `phrases` gets those that neighbors were made of."""
    if params.sampler.source == "text" and params.sampler.M > 0:
        from realera.methods.realera.phrases import nearest_phrases  # needs the text encoder, and seconds to import

        found, words = nearest_phrases(table, preset, params)
        phrases += words
        summary.add(found)
        yield found
    for samples, acceptance in sample_blocks(table, params.sampler):
        summary.add(samples, acceptance)
        yield samples
