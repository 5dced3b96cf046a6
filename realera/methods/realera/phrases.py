"""Neighbors from text: the words nearest to a target in the text encoder's own space.

The paper's noise stands for associated concepts; here the concepts themselves are taken. What
the evaluation asks about is never among them: the targets' synonyms, the classes that must
stay and the unseen words are left out by construction, and so are the anchors.
"""

from collections.abc import Sequence

from realera.families.stable_diffusion import open_pipeline
from realera.methods.realera.perturb import Encoded, rank_phrases, text_neighbors
from realera.methods.realera.samples import SampleTable, join
from realera.runtime.console import quiet_libraries
from realera.settings.config import Params
from realera.settings.errors import ConfigError
from realera.settings.presets import Preset, as_read, distinct, load_templates, load_words, unseen_words
from realera.text.prompt_table import PromptTable
from realera.text.prompts import Prompt, embed, fill, locate
from realera.text.vocabulary import read_vocabulary


class PhraseEncoder:
    """Puts phrases into templates and encodes them."""

    def __init__(self, params: Params) -> None:
        quiet_libraries()
        options = params.model.model_dump() | {"dtype": "float32"}
        self.pipe = open_pipeline(**options, without=("unet", "vae"))
        self.batch_size = params.encode.batch_size

    def __call__(self, template: str, phrases: Sequence[str]) -> Encoded:
        """Return where each phrase lies in the filled template, and the embeddings [num, T, d]."""
        prompts = [Prompt(*fill(template, phrase), "neighbor") for phrase in phrases]
        tokens = [locate(prompt, self.pipe.tokenizer) for prompt in prompts]
        texts = [prompt.text for prompt in prompts]
        return tokens, embed(texts, self.pipe.tokenizer, self.pipe.text_encoder, self.batch_size)


def candidates(preset: Preset, vocabulary: Sequence[str]) -> list[str]:
    """Return the phrases among which the nearest are sought.

    Raises:
        ConfigError: none is left.
    """
    judged = {*preset.all_synonyms(), *preset.draw.lookalikes, *load_words(preset.classes), *unseen_words(preset)}
    left_out = {as_read(word) for word in (*judged, *preset.targets, *preset.anchors)}
    found = [word for word in distinct(preset.neighbors or vocabulary) if as_read(word) not in left_out]
    if not found:
        raise ConfigError(
            "sampler.source: found text, but there are no phrases; accepted: noise, or a preset with `neighbors` "
            "that are none of its synonyms, classes, unseen words, targets and anchors"
        )
    return found


def nearest_phrases(table: PromptTable, preset: Preset, params: Params) -> tuple[SampleTable, list[str]]:
    """Return the M nearest phrases of each target as neighbors of each of its prompts, and the phrases.

    Raises:
        ConfigError: there are fewer than M phrases, or the prompts are of another model or preset.
    """
    encoder, templates = PhraseEncoder(params), load_templates(preset.templates)
    phrases = candidates(preset, read_vocabulary(encoder.pipe.name_or_path))
    span, num = params.sampler.span, int(params.sampler.M)
    if len(phrases) < num:
        raise ConfigError(f"sampler.M: found {num}; there are {len(phrases)} phrases to take neighbors from")
    pairs, width = table.pairs(span), encoder.pipe.text_encoder.config.hidden_size
    if table.width != width or len(pairs) != len(preset.targets) * params.encode.num_templates:
        raise ConfigError("prompts.parquet: not of this model, preset and encode.num_templates; encode makes it anew")
    parts, words = [], []
    for position, target in enumerate(preset.targets):
        # `prompts.build` makes the pairs target by target, and of each target one a template.
        own = pairs[position * params.encode.num_templates :][: params.encode.num_templates]
        # By one template, so that all prompts of a target get the same neighbors.
        ranks = rank_phrases(encoder(templates[0], [target]), encoder(templates[0], phrases), span)
        nearest = [phrases[index] for index in ranks[:num]]
        words += nearest
        for pair, template in zip(own, templates, strict=False):
            parts.append(text_neighbors(table, pair, encoder(template, nearest), span))
    return join(parts), words
