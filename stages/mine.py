"""Stage mine: neighbor and beyond samples of the target's prompts (Algorithm 1)."""

from collections.abc import Sequence
from typing import Any

import typer

from realera.artifacts import write_json
from realera.concepts import load_preset
from realera.config import Params, load_params
from realera.neighborhood import join, sample, summary
from realera.prompt_table import PromptTable
from realera.samples import SampleTable
from realera.stage import artifact, stage_errors


def main(concept: str) -> None:
    """Write artifacts/<concept>/samples.parquet and mining.json."""
    with stage_errors():
        samples, report = mine(concept, load_params())
        samples.write(artifact(concept, "samples.parquet"))
        write_json(report, artifact(concept, "mining.json"))


def mine(concept: str, params: Params) -> tuple[SampleTable, dict[str, Any]]:
    """Return the samples and what they are like."""
    table = PromptTable.read(artifact(concept, "prompts.parquet"))
    samples, acceptance = sample(table, params.sampler)
    words: Sequence[str] = ()
    if params.sampler.source == "text" and params.sampler.M > 0:
        from realera.phrases import nearest_phrases  # needs the text encoder, and the seconds to import it

        found, words = nearest_phrases(table, load_preset(concept), params)
        samples = join([found, samples])
    return samples, summary(table, samples, acceptance, params.sampler.source) | {"phrases": list(words)}


if __name__ == "__main__":
    typer.run(main)
