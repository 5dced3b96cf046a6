"""Stage mine: neighbor and beyond samples of the target's prompts (Algorithm 1)."""

from collections.abc import Iterator

import typer

from realera.methods.realera.perturb import Summary, sample_blocks
from realera.methods.realera.samples import SampleTable, write_blocks
from realera.runtime.console import stage_errors
from realera.settings.config import Params, load_params
from realera.settings.presets import load_preset
from realera.store.artifacts import write_json
from realera.store.paths import artifact
from realera.text.prompt_table import PromptTable


def main(concept: str) -> None:
    """Write artifacts/<concept>/samples.parquet and mining.json."""
    with stage_errors():
        params = load_params()
        table = PromptTable.read(artifact(concept, "prompts.parquet"))
        summary, phrases = Summary(table), list[str]()
        blocks = mine(concept, table, params, summary, phrases)
        write_blocks(blocks, artifact(concept, "samples.parquet"))
        report = summary.report(params.sampler.source) | {"phrases": phrases}
        write_json(report, artifact(concept, "mining.json"))


def mine(
    concept: str, table: PromptTable, params: Params, summary: Summary, phrases: list[str]
) -> Iterator[SampleTable]:
    """Yield the samples block by block; `summary` counts them, `phrases` gets those that neighbors were made of."""
    if params.sampler.source == "text" and params.sampler.M > 0:
        from realera.methods.realera.phrases import (
            nearest_phrases,  # needs the text encoder, and the seconds to import it
        )

        found, words = nearest_phrases(table, load_preset(concept), params)
        phrases += words
        summary.add(found)
        yield found
    for samples, acceptance in sample_blocks(table, params.sampler):
        summary.add(samples, acceptance)
        yield samples


if __name__ == "__main__":
    typer.run(main)
