"""Stage encode: a preset's prompts, their token spans and embeddings."""

import warnings

import typer

from realera import models, prompts, text
from realera.concepts import VOCABULARY, load_preset
from realera.config import Params, load_params
from realera.prompt_table import PromptTable
from realera.stage import artifact, stage_errors


def main(concept: str) -> None:
    """Write artifacts/<concept>/prompts.parquet."""
    with stage_errors():
        table = encode(concept, load_params())
        table.write(artifact(concept, "prompts.parquet"))


def encode(concept: str, params: Params) -> PromptTable:
    """Return the prompts of a preset with their spans and embeddings."""
    preset, settings = load_preset(concept), params.encode
    pipe = models.open_pipeline(**params.model.model_dump() | {"dtype": "float32"}, without=("unet", "vae"))
    vocabulary = text.read_concepts(pipe.name_or_path)
    if VOCABULARY in preset.preserve.lists and not vocabulary:
        warnings.warn(
            f"preserve.lists: {params.model.id} has no {text.VOCABULARY_FILE}, so {VOCABULARY!r} names nothing that "
            "stays; accepted: more lists of data/prompts/words.yaml",
            stacklevel=2,
        )
    built = prompts.build(preset, vocabulary, settings.num_templates, settings.num_preserve_templates)
    texts = [prompt.text for prompt in built]
    tokens = [prompts.locate(prompt, pipe.tokenizer) for prompt in built]
    text.warn_unknown_words(texts, pipe.tokenizer, pipe.text_encoder.get_input_embeddings().weight, params.model.id)
    embeddings = prompts.embed(texts, pipe.tokenizer, pipe.text_encoder, settings.batch_size)
    return PromptTable(built, tokens, embeddings)


if __name__ == "__main__":
    typer.run(main)
