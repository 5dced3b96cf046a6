"""Typed parameters, and the only reader of YAML.

A parameter file is checked once, here: code that holds a `Params` need not check again.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from realera import project
from realera.errors import ConfigError

Schema = TypeVar("Schema", bound=BaseModel)
Location = tuple[str | int, ...]


class Section(BaseModel):
    """A part of a parameter file: unknown keys are refused, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelParams(Section):
    """Which text-to-image model, and how it is held in memory."""

    id: str = Field(min_length=1)
    revision: str | None
    config: str | None
    dtype: Literal["auto", "float32", "float16", "bfloat16"]
    device: str = Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")


class JudgeParams(Section):
    """Which CLIP model says what a picture shows."""

    id: str = Field(min_length=1)
    revision: str | None


class EncodeParams(Section):
    """How many of a preset's templates are encoded, and how."""

    num_templates: int = Field(ge=1)
    num_preserve_templates: int = Field(ge=1)
    batch_size: int = Field(ge=1)


class SamplerParams(Section):
    """Neighbor and beyond samples (equations 3 to 6, Algorithm 1)."""

    M: int = Field(ge=0)
    N: int = Field(ge=0)
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
        return self


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

    num_images: int = Field(ge=1)
    seed: int = Field(ge=0)


class LoraParams(Section):
    """Prediction-noise alignment (equations 8 and 9)."""

    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    targets: tuple[Literal["to_k", "to_v"], ...] = Field(min_length=1)
    batch_size: int = Field(ge=1)
    gamma1: float = Field(ge=0)
    gamma2: float = Field(ge=0)
    save_every: int = Field(ge=1)
    mixed_precision: Literal["no", "fp16", "bf16"]
    seed: int = Field(ge=0)


class ImageCounts(Section):
    """How many images are drawn of one word, by its part in the evaluation."""

    erase: int = Field(ge=1)
    preserve: int = Field(ge=1)
    synonym: int = Field(ge=1)
    unseen: int = Field(ge=1)
    anchor: int = Field(ge=1)


class GenerateParams(Section):
    """How images are drawn, and how many."""

    scheduler: Literal["model", "ddim", "pndm", "euler", "dpmsolver"]
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0)
    batch_size: int = Field(ge=1)
    num_processes: int = Field(ge=1)
    seed: int = Field(ge=0)
    template: str
    images: ImageCounts


class ScoreParams(Section):
    """Intervals of the scores."""

    confidence: float = Field(gt=0, lt=1)
    num_resamples: int = Field(ge=100)
    seed: int = Field(ge=0)


class Params(Section):
    """The content of the project's params.yaml; the sections are named as the stages are."""

    concepts: tuple[str, ...] = Field(min_length=1)
    model: ModelParams
    judge: JudgeParams
    encode: EncodeParams
    sampler: SamplerParams
    solver: SolverParams
    latents: LatentsParams
    lora: LoraParams
    generate: GenerateParams
    score: ScoreParams


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read the project's parameters; see `load_yaml` for the errors.

    A relative path that does not exist in the working folder is looked up in the project.
    """
    return load_yaml(project.find(path) or path, Params)


def load_yaml(path: str | Path, schema: type[Schema]) -> Schema:
    """Read a YAML file into a pydantic model, without guessing at types.

    Numbers with an exponent and no dot count as numbers for float fields: DVC writes
    `1e-05`, which YAML 1.1 reads as text. Apart from that text is no number, true is not 1
    and 2.0 is not an integer.

    Raises:
        ConfigError: the file is missing, is not YAML, gives a key twice, or a value does not
            fit. One line a problem: the key, the value found, and what is accepted.
    """
    path = Path(path)
    data = _read_mapping(path)
    try:
        return _validate(data, schema)
    except ValidationError as error:
        problems = (f"{path}: {_explain(problem, schema)}" for problem in error.errors())
        raise ConfigError("\n".join(problems)) from None


def _validate(data: dict[str, Any], schema: type[Schema]) -> Schema:
    """Validate as strict JSON: lists may become tuples, but text never becomes a number."""
    try:
        return schema.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        if not _repair_floats(data, error):
            raise
    return schema.model_validate_json(json.dumps(data, default=str), strict=True)


def _repair_floats(data: Any, error: ValidationError) -> bool:
    """Put numbers where text such as `1e-05` was found instead; say whether there were any."""
    found_one = False
    for problem in error.errors():
        number = _as_number(problem["input"]) if problem["type"] == "float_type" else None
        if number is not None:
            _put(data, problem["loc"], number)
            found_one = True
    return found_one


def _put(data: Any, location: Location, value: float) -> None:
    """Replace the text at a location, which may end with the name of a type in a union."""
    for key in location:
        if isinstance(data[key], str):
            data[key] = value
            return
        data = data[key]


def _as_number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: found {_show(data)}; accepted: keys with values")
    return _with_text_keys(data)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without objects, and without keys that silently win over an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            problem = f"the key {twice!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def _with_text_keys(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _with_text_keys(value) for key, value in data.items()}
    return [_with_text_keys(value) for value in data] if isinstance(data, list) else data


def _explain(problem: Mapping[str, Any], schema: type[BaseModel]) -> str:
    """Say in one line where the problem is, what was found and what is accepted."""
    location: Location = problem["loc"]
    key = ".".join(str(part) for part in location) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key; {_known_keys(schema, location)}"
    if problem["type"] == "missing":
        return f"{key}: missing; it is needed"
    return f"{key}: found {_show(problem['input'])}; accepted: {_accepted(problem)}"


def _accepted(problem: Mapping[str, Any]) -> str:
    text = str(problem["msg"])
    for start in ("Input should be ", "Input should ", "Value error, ", "Assertion failed, "):
        text = text.removeprefix(start)
    return re.sub("^(a valid|an?) ", "", text)


def _known_keys(schema: type[BaseModel], location: Location) -> str:
    section = _section_at(schema, location[:-1])
    if section is None:
        return "accepted: fewer keys"
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}accepted: {', '.join(names)}"


def _section_at(schema: Any, location: Location) -> type[BaseModel] | None:
    """Return the section that a location lies in, or None if the types don't tell."""
    for part in location:
        options = list(_models_in(schema))
        fields = options[0].model_fields if len(options) == 1 else {}
        if part in fields:
            schema = fields[str(part)].annotation
    options = list(_models_in(schema))
    return options[0] if len(options) == 1 else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections in an annotation such as `list[Section] | None`."""
    if get_origin(annotation) is None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _models_in(part)


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
