"""From a preset to its encoded prompts."""

import warnings
from typing import TYPE_CHECKING

from realera.settings.config import EncodeParams
from realera.settings.presets import VOCABULARY, Preset
from realera.text import prompts, vocabulary
from realera.text.prompt_table import PromptTable

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def encode_preset(preset: Preset, params: EncodeParams, pipe: "StableDiffusionPipeline", model: str) -> PromptTable:
    """Return the prompts of a preset with their spans and embeddings.

    A list `vocabulary` that the model does not have, and words that it does not know, raise a warning.

    Args:
        preset: targets, anchors, what is preserved.
        params: how many templates, and the batch size.
        pipe: its tokenizer and its text encoder, in float32.
        model: its name in warnings.

    Raises:
        ConfigError: a list or template does not exist, or a prompt is longer than the text encoder reads.
    """
    concepts = vocabulary.read_concepts(pipe.name_or_path)
    if VOCABULARY in preset.preserve.lists and not concepts:
        warnings.warn(
            f"preserve.lists: {model} has no {vocabulary.VOCABULARY_FILE}, so {VOCABULARY!r} names nothing "
            "that stays; accepted: more lists of data/prompts/words.yaml",
            stacklevel=2,
        )
    built = prompts.build(preset, concepts, params.num_templates, params.num_preserve_templates)
    built += prompts.with_shared_beginnings(
        preset, concepts, pipe.tokenizer, params.num_templates, params.num_preserve_templates
    )
    texts = [prompt.text for prompt in built]
    tokens = [prompts.locate(prompt, pipe.tokenizer) for prompt in built]
    weight = pipe.text_encoder.get_input_embeddings().weight
    vocabulary.warn_unknown_words(texts, pipe.tokenizer, weight, model)
    embeddings = prompts.embed(texts, pipe.tokenizer, pipe.text_encoder, params.batch_size)
    return PromptTable(built, tokens, embeddings)
