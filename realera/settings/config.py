"""Typed parameters.

A parameter file is checked once, here: code that holds a `Params` need not check again.
"""

import math
from collections import Counter
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, ValidationInfo, field_validator, model_validator

from realera.settings import project
from realera.settings.yaml_file import Section as Section
from realera.settings.yaml_file import load_yaml as load_yaml

_MOST = 1_000_000

Count = Annotated[int, Field(ge=0, le=_MOST)]
"""How many of something that fits in memory or in a day; more is a slip."""

Number = Annotated[int, Field(ge=1, le=_MOST)]


def _samples(value: Any) -> int | float:
    """Return a number of samples; infinite where it is written as `inf`, or as DVC writes that."""
    if value in ("inf", ".inf", math.inf):
        return math.inf
    if type(value) is int and 0 <= value <= _MOST:
        return value
    raise ValueError(f"a whole number from 0 to {_MOST:,}, or inf")


NumSamples = Annotated[
    float, PlainValidator(_samples), PlainSerializer(lambda value: "inf" if value == math.inf else value)
]
"""How many neighbors or beyond samples; inf: their expectation in closed form."""

MAX_SEED = 2**32 - 1
"""torch's CPU generator looks at the low 32 bits only: a larger seed would repeat a smaller one's images."""

ImageSeed = Annotated[int, Field(ge=0, lt=MAX_SEED + 1)]


def _check_last_seed(first: int, number: int) -> None:
    most = MAX_SEED + 1 - number
    if first > most:
        raise ValueError(f"a seed of at most {most} for {number} images, found {first}")


CONCEPT_NAME = r"^[a-z0-9][a-z0-9_-]*$"
RESERVED = ("shared", "average")
"""Names that artifacts/ and reports/ use for all concepts together."""


ReadingName = Literal[
    "auto",
    "probability",
    "top1",
    "style_probability",
    "style_top1",
    "identity_probability",
    "identity_top1",
    "clip_score",
    "nudenet_images",
    "nudenet_boxes",
    "distance",
]
"""Those of `realera.scores.readings`; auto: the first that a preset's judges give."""

MethodName = Literal["realera", "uce"]
"""The erasure methods: each is a folder of realera/methods, with its parameters in a section of its name."""


class ModelParams(Section):
    """Which text-to-image model, and how it is held in memory."""

    id: str = Field(min_length=1)
    revision: str | None
    config: str | None
    dtype: Literal["auto", "float32", "float16", "bfloat16"]
    device: str = Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")


class JudgeParams(Section):
    """Which models say what a picture shows; a preset names the judges that it needs."""

    id: str = Field(min_length=1)
    revision: str | None
    style: str | None
    identity: str | None
    inception: str | None
    distance: Literal["clip", "ssim", "lpips"]


class EncodeParams(Section):
    """How many of a preset's templates are encoded, and how."""

    num_templates: Number
    num_preserve_templates: Number
    batch_size: Number


class SamplerParams(Section):
    """Neighbor and beyond samples (equations 3 to 6, Algorithm 1)."""

    M: NumSamples
    N: NumSamples
    D1: float = Field(gt=0)
    D1_anchor: float = Field(ge=0)
    D2: float = Field(gt=0)
    S1: float = Field(gt=-1, le=1)
    S2: float = Field(ge=-1, lt=1)
    span: Literal["concept", "concept_to_eot", "concept_to_end"]
    noise: Literal["per_token", "shared"]
    units: Literal["relative", "absolute"]
    direction: Literal["paper", "isotropic"]
    source: Literal["noise", "text"]
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.D1_anchor > self.D1:
            raise ValueError(f"D1_anchor no larger than D1 = {self.D1}, found {self.D1_anchor}")
        if self.N > 0 and self.D2 <= self.D1:
            raise ValueError(f"D2 larger than D1 = {self.D1} (beyond lies outside), found {self.D2}")
        if self.S2 >= self.S1:
            raise ValueError(f"S2 smaller than S1 = {self.S1} (S1 is the upper cosine), found {self.S2}")
        self._check_expectation()
        return self

    def _check_expectation(self) -> None:
        """Refuse an infinite number of samples where there is no expectation in closed form."""
        endless = [name for name in ("M", "N") if math.isinf(getattr(self, name))]
        if "M" in endless and self.source == "text":
            raise ValueError("source noise where M is inf, or a number as M: phrases are counted; found text")
        if endless and self.noise == "shared":
            raise ValueError(
                f"noise per_token where {endless[0]} is inf, found shared: a prompt's tokens would share one "
                "direction, and what all of them accept has no closed form"
            )


class SolverParams(Section):
    """The closed form (equation 7)."""

    enabled: bool
    lambda1: float = Field(ge=0)
    ridge: float = Field(gt=0)
    sums: Literal["raw", "normalized"]
    neighbor_weight: float = Field(ge=0)
    beyond_weight: float = Field(ge=0)


class LatentsParams(Section):
    """The anchor images whose noised latents the LoRA trains on."""

    num_images: Number
    seed: ImageSeed

    @model_validator(mode="after")
    def _seeds_do_not_repeat(self) -> Self:
        _check_last_seed(self.seed, self.num_images)
        return self


class LoraParams(Section):
    """Prediction-noise alignment (equations 8 and 9)."""

    steps: Count
    learning_rate: float = Field(gt=0)
    rank: Number
    alpha: float = Field(gt=0)
    targets: tuple[Literal["to_k", "to_v"], ...] = Field(min_length=1)
    batch_size: Number
    gamma1: float = Field(ge=0)
    gamma2: float = Field(ge=0)
    save_every: Number
    mixed_precision: Literal["no", "fp16", "bf16"]
    num_processes: Number
    gradient_checkpointing: bool
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Self:
        if self.batch_size % self.num_processes:
            raise ValueError(f"batch_size a multiple of num_processes = {self.num_processes}, found {self.batch_size}")
        return self


class ImageCounts(Section):
    """How many images are drawn of one word, by its part in the evaluation."""

    erase: Number
    preserve: Number
    synonym: Number
    associated: Number
    lookalike: Number
    unseen: Number
    anchor: Number
    rows: Count


class GenerateParams(Section):
    """How images are drawn, and how many."""

    scheduler: Literal["model", "ddim", "pndm", "euler", "dpmsolver"]
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0)
    batch_size: Number
    num_threads: int = Field(ge=1, le=1024)
    num_processes: Number
    dtype: Literal["model", "bfloat16"]
    attention_slicing: bool
    vae_slicing: bool
    vae_tiling: bool
    offload: Literal["none", "model", "sequential"]
    seed: ImageSeed
    row_settings: Literal["honor", "override"]
    images: ImageCounts

    @model_validator(mode="after")
    def _seeds_do_not_repeat(self) -> Self:
        most = max(number for name, number in self.images if name != "rows")
        _check_last_seed(self.seed, most)
        return self


class ScoreParams(Section):
    """How raw readings are summed up; none of it judges an image again."""

    reading: ReadingName
    confidence: float = Field(gt=0, lt=1)
    num_resamples: int = Field(ge=100, le=1_000_000)
    seed: int = Field(ge=0)
    nudenet_threshold: float = Field(ge=0, le=1)


class RealEraParams(Section):
    """RealEra's own parameters are the sections sampler, solver, latents and lora: its stages are named so."""


class UceParams(Section):
    """UCE (Gandikota et al. 2024), the closed form on the concepts' names alone."""

    reading: Literal["current", "legacy"]
    prompts: Literal["names", "templates"]
    anchor: Literal["preset", "empty"]
    erase_scale: float = Field(gt=0)
    preserve_scale: float | None = Field(ge=0)
    lamb: float = Field(gt=0)

    @model_validator(mode="after")
    def _templates_have_anchors(self) -> Self:
        if self.prompts == "templates" and self.anchor == "empty":
            raise ValueError("anchor preset where prompts are templates, which hold the preset's anchors; found empty")
        return self


class ReportParams(Section):
    """What the page shows."""

    explicit_images: Literal["blurred", "shown"]


class Params(Section):
    """The content of the project's params.yaml; the sections are named as the stages are."""

    concepts: tuple[Annotated[str, Field(pattern=CONCEPT_NAME)], ...] = Field(min_length=1)
    methods: tuple[MethodName, ...] = Field(min_length=1)
    model: ModelParams
    judge: JudgeParams
    encode: EncodeParams
    sampler: SamplerParams
    solver: SolverParams
    latents: LatentsParams
    lora: LoraParams
    realera: RealEraParams
    uce: UceParams
    generate: GenerateParams
    score: ScoreParams
    report: ReportParams

    @field_validator("solver")
    @classmethod
    def _sums_are_finite(cls, solver: SolverParams, info: ValidationInfo) -> SolverParams:
        sampler = info.data.get("sampler")
        if sampler and solver.enabled and solver.sums == "raw" and math.inf in (sampler.M, sampler.N):
            raise ValueError("sums: normalized where sampler.M or N is inf, whose raw sum would be infinite; found raw")
        return solver

    @field_validator("concepts", "methods")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"each name once, found {twice[0]!r} again")
        return names

    @field_validator("concepts")
    @classmethod
    def _not_reserved(cls, concepts: tuple[str, ...]) -> tuple[str, ...]:
        if taken := set(concepts) & set(RESERVED):
            raise ValueError(f"other names than {sorted(taken)[0]!r}, which the project uses itself")
        return concepts


def check_template(template: str) -> str:
    """Return a template as it is.

    Raises:
        ValueError: it does not hold {name} exactly once, or holds another field than {a}.
    """
    accepted = "text with {name} once and, where an article stands, {a}"
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(accepted) from error
    if fields.count("name") != 1 or set(fields) - {"name", "a"}:
        raise ValueError(accepted)
    return template


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read the project's parameters; see `load_yaml` for the errors.

    A relative path that does not exist in the working folder is looked up in the project.
    """
    return load_yaml(project.find(path) or path, Params)
