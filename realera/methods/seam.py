"""The seam: what a method is asked, and what it gives back.

A method is a folder of realera/methods with

    FAMILIES                                   in its __init__: names of the model families that it can edit
    method.erase(task, scratch) -> Erasure     what it does

and parameters of its own, a section of params.yaml under its name. Methods know nothing of the graph, of drawing or of
judging; all that comes after knows the `Erasure` alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, get_args

from pydantic import BaseModel, ValidationError

from realera.erasures.artifact import BaseModelId, Description, Erasure, weights_sha256
from realera.families.registry import STABLE_DIFFUSION, family_of
from realera.settings.config import MethodName, ModelParams, Params
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import Preset
from realera.text.prompt_table import PromptTable
from realera.text.prompts import Prompt, embed, locate

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Task:
    """What a method is asked to erase, from which model.

    Attributes:
        concept: what the erasure is called, such as the preset's name.
        preset: targets, anchors, what must stay.
        params: all parameters; a method reads the sections that it names in its description.
        table: the preset's prompts, with spans and embeddings.
        family: of the model.
        open_model: opens it anew, unedited; takes components to leave out, as `open_pipeline` does.
        latents: reads the original model's images of the anchors, float32 [num_pairs * num_images, channels, h, w].
        progress: show bars on stderr.
    """

    concept: str
    preset: Preset
    params: Params
    table: PromptTable
    family: str
    open_model: Callable[..., "StableDiffusionPipeline"]
    latents: Callable[[], "torch.Tensor"]
    progress: bool = True

    @cached_property
    def pipe(self) -> "StableDiffusionPipeline":
        """The unedited model in float32 on the CPU, without its decoder; opened once."""
        return self.open_model(without=("vae",), dtype="float32", device="cpu")

    def encode(self, prompts: Sequence[Prompt]) -> PromptTable:
        """Return other prompts with their spans and what the image model reads of them.

        Raises:
            ConfigError: a prompt is longer than the text encoder reads.
        """
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        # A prompt that is blank as a whole is asked for as it is; its last token is the start's, as for free text.
        free = [prompt if prompt.text.strip() else replace(prompt, role="preserve") for prompt in prompts]
        tokens = [locate(prompt, tokenizer) for prompt in free]
        texts = [prompt.text for prompt in prompts]
        return PromptTable(prompts, tokens, embed(texts, tokenizer, encoder, self.params.encode.batch_size))

    def describe(self, method: str, original: Mapping[str, "torch.Tensor"], sections: Iterable[str]) -> Description:
        """Return what erasure.json says.

        Args:
            method: the name.
            original: the unedited model's weights that the method replaces.
            sections: of the parameters that it has read.
        """
        used = {name: getattr(self.params, name).model_dump(mode="json") for name in sections}
        return description(self.preset.pairs(), self.params, method, self.family, used, weights_sha256(original))


def description(
    pairs: Sequence[tuple[str, str]], params: Params, method: str, family: str, parameters: dict[str, Any], sha256: str
) -> Description:
    """Return what erasure.json says.

    Args:
        pairs: targets with their anchors.
        params: whose model they are erased from.
        method: the name.
        family: of the model.
        parameters: of the method, by section.
        sha256: of the weights that are replaced, see `weights_sha256`.

    Raises:
        ArtifactError: it is no SHA-256.
    """
    try:
        base = BaseModelId(id=params.model.id, revision=params.model.revision, sha256=sha256)
    except ValidationError as error:
        raise ArtifactError(
            f"erasure: sha256: found {sha256!r}; accepted: 64 hex digits; solve makes it anew"
        ) from error
    return Description(method=method, family=family, base=base, pairs=tuple(pairs), parameters=parameters)


class Method(Protocol):
    """A method's module `method`."""

    def erase(self, task: Task, scratch: Path) -> Erasure:
        """Erase; half-finished work may be kept in `scratch` and is found there again after an interruption."""


def find_method(name: str) -> Method:
    """Return the method of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in method_names():
        raise ConfigError(f"method: found {name!r}; accepted: {', '.join(method_names())}")
    return cast(Method, import_module(f"realera.methods.{name}.method"))


def method_names() -> tuple[str, ...]:
    """Return the names of the methods that there are."""
    return get_args(MethodName)


def check_task(name: str, model: ModelParams) -> str:
    """Return the family of a model that a method can edit; no weights are read.

    Raises:
        ModelError: the model is of no family that is known here.
        ConfigError: there is no such method, or it cannot edit this family.
    """
    found = family_of(model.id, model.revision, fetch=True)
    family = (found or STABLE_DIFFUSION).key  # a single file that does not say: its loader does
    check_method(name, family)
    return family


def check_method(name: str, family: str) -> None:
    """Refuse a method that there is not, or that cannot edit models of a family.

    Raises:
        ConfigError: so it is.
    """
    if name not in method_names():
        raise ConfigError(f"method: found {name!r}; accepted: {', '.join(method_names())}")
    known: frozenset[str] = import_module(f"realera.methods.{name}").FAMILIES
    if family not in known:
        raise ConfigError(f"method: {name} edits {', '.join(sorted(known))}; the model is of the family {family}")


def own_parameters(name: str, params: Params) -> dict[str, Any]:
    """Return the section of a method's own parameters."""
    section: BaseModel = getattr(params, name)
    return section.model_dump(mode="json")
