"""Typed view of `pretrain/params.yaml` and `pretrain/vocabulary.yaml`."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from realera.settings.config import load_yaml

PARAMS = Path("pretrain/params.yaml")
VOCABULARY = Path("pretrain/vocabulary.yaml")
WORK = Path("pretrain/work")
GLYPH = "glyph"
"""Style word, for the judge, of all glyph sets."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NpmPackage(Section):
    name: str
    version: str
    integrity: str
    files: tuple[str, ...] = ("icons.json", "info.json")

    @property
    def folder(self) -> str:
        return self.name.split("/")[-1]


class PypiPackage(Section):
    name: str
    version: str
    sha256: str


class Fetch(Section):
    npm: tuple[NpmPackage, ...]
    merges: PypiPackage


class Render(Section):
    size: int = Field(ge=32)
    min_vendors: int = Field(ge=1)
    vendors: dict[str, str]
    judge_only: tuple[str, ...]
    held_out: str

    @property
    def unseen(self) -> frozenset[str]:
        """Return the vendors whose art the generator is not trained on."""
        return frozenset({self.held_out, *self.judge_only})

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the generator's style words, in the order of `vendors`."""
        return tuple(vendor for vendor in self.vendors if vendor not in self.unseen)


class GlyphSet(Section):
    """One set of glyphs: its package's folder, and what may follow a word in the name of its glyph."""

    package: str
    endings: tuple[str, ...] = ("",)


class Glyphs(Section):
    sets: dict[str, GlyphSet]
    left_out: tuple[str, ...]


class Captions(Section):
    templates: tuple[str, ...]
    style_phrase: str
    none_phrases: tuple[str, ...]
    tier_weights: dict[str, float]


class Training(Section):
    """What every trained stage has: its own seed and budget, and how often it saves."""

    seed: int
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    save_every: int = Field(ge=1)


class Tower(Section):
    hidden_size: int = Field(ge=8)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)


class Contrastive(Training):
    """Training against images of icons; `image_width`: of the convolutional encoder that is thrown away."""

    text: Tower
    projection_dim: int
    image_width: int = Field(ge=8)
    captions_per_step: int = Field(ge=1)
    style_weight: float = Field(ge=0)
    distance_weight: float = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)


class TextEncoder(Contrastive):
    pass


class Judge(Contrastive):
    vision: Tower
    patch_size: int
    patch_keep: float = Field(gt=0, le=1)
    none_rate: float = Field(ge=0, le=1)
    distill_weight: float = Field(ge=0)
    match_weight: float = Field(ge=0)
    glyph_weight: float = Field(ge=0)
    label_smoothing: float = Field(ge=0, lt=1)
    val_share: float = Field(ge=0, lt=1)
    tier_weights: dict[str, float]


class StyleJudge(Training):
    embedding_size: int = Field(ge=8)
    hidden_sizes: tuple[int, ...]
    depths: tuple[int, ...]
    label_smoothing: float = Field(ge=0, lt=1)
    none_rate: float = Field(ge=0, lt=1)
    val_share: float = Field(gt=0, lt=1)


class Vae(Training):
    block_out_channels: tuple[int, ...]
    latent_channels: int
    norm_num_groups: int
    gradient_weight: float = Field(ge=0)
    kl_weight: float = Field(ge=0)
    val_share: float = Field(ge=0, lt=1)


class Unet(Training):
    block_out_channels: tuple[int, ...]
    layers_per_block: int
    num_attention_heads: int
    norm_num_groups: int
    snr_gamma: float = Field(gt=0)
    caption_dropout: float = Field(ge=0, le=1)
    style_rate: float = Field(ge=0, le=1)
    ema_decay: float = Field(ge=0, lt=1)
    views: int = Field(ge=1)


class Evaluate(Section):
    seed: int
    num_inference_steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=1)
    images_per_word: dict[str, int]
    images_per_style: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class Params(Section):
    num_processes: int = Field(ge=1)
    fetch: Fetch
    render: Render
    glyphs: Glyphs
    caption: Captions
    judge: Judge
    style_judge: StyleJudge
    text_encoder: TextEncoder
    vae: Vae
    unet: Unet
    evaluate: Evaluate


@dataclass(frozen=True)
class Concept:
    """A picture that has a name; `synonyms` are further words for the same picture."""

    name: str
    tier: str
    icons: tuple[str, ...]
    synonyms: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return (self.name, *self.synonyms)


class Vocabulary(Section):
    classes: dict[str, tuple[str, ...]]
    core: dict[str, tuple[str, ...]]
    rest: dict[str, tuple[str, ...]]

    def concepts(self) -> list[Concept]:
        tiers = {"classes": self.classes, "core": self.core, "rest": self.rest}
        return [
            Concept(name, tier, tuple(entry[0].split()), entry[1:])
            for tier, entries in tiers.items()
            for name, entry in entries.items()
        ]

    def check(self) -> None:
        """Raises ValueError when a word stands for two concepts, since then neither can be erased alone."""
        owners: dict[str, str] = {}
        for concept in self.concepts():
            for word in concept.words:
                if owners.setdefault(word, concept.name) != concept.name:
                    raise ValueError(
                        f"{VOCABULARY}: the word {word!r} stands for {owners[word]!r} and {concept.name!r}; "
                        "each word belongs to one concept"
                    )


def load_params() -> Params:
    return load_yaml(PARAMS, Params)


def load_vocabulary() -> Vocabulary:
    vocabulary = load_yaml(VOCABULARY, Vocabulary)
    vocabulary.check()
    return vocabulary
