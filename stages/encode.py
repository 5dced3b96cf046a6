"""Stage encode: a preset's prompts, their token spans and embeddings."""

import warnings

import typer

from realera.families.stable_diffusion import open_pipeline
from realera.runtime.console import stage_errors
from realera.settings.config import Params, load_params
from realera.settings.presets import VOCABULARY, load_preset
from realera.store.paths import artifact
from realera.text import prompts, vocabulary
from realera.text.prompt_table import PromptTable


def main(concept: str) -> None:
    """Write artifacts/<concept>/prompts.parquet."""
    with stage_errors():
        table = encode(concept, load_params())
        table.write(artifact(concept, "prompts.parquet"))


def encode(concept: str, params: Params) -> PromptTable:
    """Return the prompts of a preset with their spans and embeddings."""
    preset, settings = load_preset(concept), params.encode
    pipe = open_pipeline(**params.model.model_dump() | {"dtype": "float32"}, without=("unet", "vae"))
    concepts = vocabulary.read_concepts(pipe.name_or_path)
    if VOCABULARY in preset.preserve.lists and not concepts:
        warnings.warn(
            f"preserve.lists: {params.model.id} has no {vocabulary.VOCABULARY_FILE}, so {VOCABULARY!r} names nothing "
            "that stays; accepted: more lists of data/prompts/words.yaml",
            stacklevel=2,
        )
    built = prompts.build(preset, concepts, settings.num_templates, settings.num_preserve_templates)
    texts = [prompt.text for prompt in built]
    tokens = [prompts.locate(prompt, pipe.tokenizer) for prompt in built]
    vocabulary.warn_unknown_words(
        texts, pipe.tokenizer, pipe.text_encoder.get_input_embeddings().weight, params.model.id
    )
    embeddings = prompts.embed(texts, pipe.tokenizer, pipe.text_encoder, settings.batch_size)
    return PromptTable(built, tokens, embeddings)


if __name__ == "__main__":
    typer.run(main)
