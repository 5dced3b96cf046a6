"""Mine: from prompts.parquet to samples.parquet and mining.json."""

from collections.abc import Iterator

from realera.methods.realera.perturb import Summary, sample_blocks
from realera.methods.realera.samples import SampleTable, write_blocks
from realera.settings.config import Params
from realera.settings.presets import Preset
from realera.store.artifacts import write_json
from realera.store.paths import REALERA, Place
from realera.text.prompt_table import PromptTable


def mine(place: Place, preset: Preset, params: Params) -> None:
    """Write the neighbor and beyond samples of the targets' prompts (Algorithm 1), and what they are.

    Raises:
        MiningError: no sample can fulfil the thresholds.
        ArtifactError: the prompts are missing or corrupt.
    """
    own, table = place.of(REALERA), PromptTable.read(place.prompts)
    summary, phrases = Summary(table), list[str]()
    write_blocks(_blocks(table, preset, params, summary, phrases), own.samples)
    write_json(summary.report(params.sampler.source) | {"phrases": phrases}, own.mining)


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
