"""Erase from an open pipeline: no project, no files but what is saved.

    erasure = realera.erase(pipe, target="airplane", anchor="sun")
    erasure.apply(pipe); erasure.remove(pipe); erasure.save("erased/")

The same functions as the stages of the graph, on the same kinds of files, in a scratch folder.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from realera.drawing.latents import anchor_latents
from realera.erasures.apply import carries_erasure
from realera.erasures.artifact import Erasure, weights_sha256
from realera.families import cross_attention
from realera.families.registry import FAMILIES, Family, family_of_class
from realera.families.schedulers import use_scheduler
from realera.methods.seam import Task, check_method, find_method
from realera.runtime.devices import DTYPES, resolve_device
from realera.settings.config import ModelParams, Params
from realera.settings.errors import ConfigError, ModelError
from realera.settings.presets import EVERYDAY, VOCABULARY, Preset, as_read, distinct, preserved_words, spelled
from realera.settings.recipes import merged, read_recipe
from realera.settings.yaml_file import validate
from realera.store.scratch import fingerprint, scratch
from realera.text.encoding import encode_preset
from realera.text.vocabulary import read_concepts

_TEMPLATES = {"object": "object", "celebrity": "celebrity", "style": "artist", "explicit": "explicit"}
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_SECTIONS = ("encode", "sampler", "solver", "latents", "lora", "uce", "generate")
"""Of the parameters: those that decide about an erasure whose model is open already."""

_SMALL = 64
"""Pixels of the embedded model's images."""

OpenModel = Callable[..., StableDiffusionPipeline]


def erase(
    pipe: StableDiffusionPipeline,
    target: str | Sequence[str],
    anchor: str | Sequence[str],
    *,
    preserve: str | Sequence[str] | None = None,
    synonyms: str | Sequence[str] = (),
    method: str = "realera",
    task: str = "object",
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Erasure:
    """Erase a concept from an open model; the pipeline itself is not changed.

    Half-finished work is kept in the user's cache folder: after an interruption the same call goes on from there.

    Args:
        pipe: the unedited model, in any dtype, on any device.
        target: what is erased; several are erased together.
        anchor: what is drawn instead: one, or one for each target.
        preserve: words that stay. None: the model's own vocabulary if it has one, else 425 everyday nouns. Targets and
            synonyms are never among them.
        synonyms: other words for the targets: they are not preserved (and not given to the method either).
        method: realera, uce: see docs/methods.md.
        task: object, celebrity, style or explicit: whose templates the words are put into.
        recipe: tiny, sd15 or the path of a YAML file; None: sd15, or tiny for images of 64 pixels.
        settings: {"lora.steps": 50}, in place of the recipe's.
        progress: show bars on stderr.

    Raises:
        ConfigError: a value is not accepted; the message names it, what was found and what is accepted.
        ModelError: the pipeline is of another family, lacks a part, is offloaded or carries an erasure.
        MiningError: no sample can fulfil the sampler's thresholds.
    """
    request = ask(pipe, target, anchor, preserve, synonyms, method, task, recipe, settings)
    return carry_out(request, pipe, Copies(pipe, request.params.model.id).open, progress)


@dataclass(frozen=True)
class Request:
    """What is asked, checked.

    Attributes:
        method: by which.
        family: of the model.
        preset: targets, anchors, what stays.
        params: all parameters; the section `model` names the pipeline's.
    """

    method: str
    family: str
    preset: Preset
    params: Params

    def of(self, model: ModelParams) -> "Request":
        """Return the same for a model that is opened from its checkpoint, as the stages open it."""
        return replace(self, params=self.params.model_copy(update={"model": model}))


def ask(
    pipe: StableDiffusionPipeline,
    target: str | Sequence[str],
    anchor: str | Sequence[str],
    preserve: str | Sequence[str] | None = None,
    synonyms: str | Sequence[str] = (),
    method: str = "realera",
    task: str = "object",
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Request:
    """Return what `erase` makes of its arguments, which has them and raises the same.

    Raises:
        ConfigError: see `erase`.
        ModelError: likewise.
    """
    family = _check_pipeline(pipe)
    check_method(method, family.key)
    preset = make_preset(pipe, target, anchor, preserve, synonyms, task)
    return Request(method, family.key, preset, _params(pipe, recipe, settings))


@torch.inference_mode(False)
@torch.enable_grad()
def carry_out(request: Request, pipe: StableDiffusionPipeline, open_model: OpenModel, progress: bool = True) -> Erasure:
    """Erase; gradients are on inside, whatever the caller has switched off, and torch's own generator stays as it was.

    Args:
        request: what is asked.
        pipe: draws the anchors' images; not changed.
        open_model: opens the unedited model anew, as `realera.families.stable_diffusion.open_pipeline` does.
        progress: show bars on stderr.

    Raises:
        RealEraError: see the method.
    """
    preset, params = request.preset, request.params
    with torch.random.fork_rng(devices=[]):
        reader = open_model(without=("unet", "vae"), dtype="float32")
        table = encode_preset(preset, params.encode, reader, params.model.id)
        latents = partial(_latents, pipe, preset, params, progress)
        asked = Task("-".join(preset.targets), preset, params, table, request.family, open_model, latents, progress)
        model = {**cross_attention.weights(pipe.unet), "text": table.embeddings}
        where = [str(pipe.dtype), str(pipe.device)]
        parts = [request.method, weights_sha256(model), where, params.model_dump(mode="json")]
        with scratch("erase", fingerprint([*parts, preset.model_dump(mode="json")], [])) as folder:
            return find_method(request.method).erase(asked, folder)


def make_preset(
    pipe: StableDiffusionPipeline,
    target: str | Sequence[str],
    anchor: str | Sequence[str],
    preserve: str | Sequence[str] | None = None,
    synonyms: str | Sequence[str] = (),
    task: str = "object",
) -> Preset:
    """Return the preset that `erase` makes of its arguments, which has them.

    Raises:
        ConfigError: a word is blank, a target is its own anchor, the numbers do not fit, or there is no such task.
    """
    if task not in _TEMPLATES:
        raise ConfigError(f"task: found {task!r}; accepted: {', '.join(_TEMPLATES)}")
    targets, anchors = _words(target), _words(anchor)
    _check_words(targets, anchors)
    others = [word for word in distinct(_words(synonyms)) if spelled(word, targets) is None]
    lists = [VOCABULARY if read_concepts(pipe.name_or_path or "") else EVERYDAY] if preserve is None else []
    values = {
        "task": task,
        "targets": targets,
        "anchors": anchors,
        "synonyms": {targets[0]: others} if others and targets else {},
        "classes": "",
        "preserve": {"lists": lists, "words": _words(preserve or ()), "texts": [""]},
        "templates": _TEMPLATES[task],
        "neighbors": [],
        "draw": {},
        "judged": {},
    }
    return validate(values, Preset, "erase")


def kept_words(request: Request, pipe: StableDiffusionPipeline) -> list[str]:
    """Return the words that stay by what is asked."""
    return preserved_words(request.preset, read_concepts(pipe.name_or_path or ""))


def _words(given: str | Sequence[str]) -> list[str]:
    """Return words as a list; a text is one word, not its letters."""
    return [given] if isinstance(given, str) else list(given)


def _check_words(targets: Sequence[str], anchors: Sequence[str]) -> None:
    if len(anchors) not in (1, len(targets)):
        raise ConfigError(f"anchor: found {len(anchors)}; accepted: one, or one for each of the {len(targets)} targets")
    if both := [anchor for anchor in anchors if as_read(anchor) in map(as_read, targets)]:
        raise ConfigError(f"anchor: found {both[0]!r}, which is a target; accepted: another word")
    if len(distinct(targets)) < len(targets):
        raise ConfigError(f"target: found {list(targets)}; accepted: each once")


def _check_pipeline(pipe: StableDiffusionPipeline) -> Family:
    """Return the pipeline's family.

    Raises:
        ModelError: it is of none, or not fit to be erased from.
    """
    name = getattr(pipe, "name_or_path", None) or "the pipeline"
    classes = [each.__name__ for each in type(pipe).__mro__]  # a class of the user's may be derived from a known one
    known = [each for each in classes if any(each in family.pipelines for family in FAMILIES)]
    family = family_of_class(name, (known or classes)[0])
    if missing := [part for part in _PARTS if getattr(pipe, part, None) is None]:
        raise ModelError(f"{name}: found no {missing[0]}; accepted: a pipeline with {', '.join(_PARTS)}")
    if (found := pipe.unet.config.in_channels) != family.in_channels:
        raise ModelError(f"{name}: unet: in_channels: found {found}; accepted: {family.in_channels}")
    if any(hasattr(module, "_hf_hook") for part in _modules(pipe) for module in part.modules()):
        raise ModelError(f"{name}: found parts that are offloaded; accepted: a pipeline that is whole on its device")
    if carries_erasure(pipe):
        raise ModelError("this pipeline carries an erasure; remove it first, or save the pipeline and open that one")
    return family


def _modules(pipe: StableDiffusionPipeline) -> list[nn.Module]:
    return [part for part in (getattr(pipe, name) for name in _PARTS) if isinstance(part, nn.Module)]


@dataclass(frozen=True)
class Copies:
    """Opens a live pipeline again and again, as `open_pipeline` opens a checkpoint.

    Attributes:
        pipe: the user's; nothing of it is changed.
        name: of its model.
    """

    pipe: StableDiffusionPipeline
    name: str

    def open(self, without: Sequence[str] = (), dtype: str = "auto", device: str = "auto") -> StableDiffusionPipeline:
        """Return a pipeline whose image model is a copy, since methods train it; what would move is copied, too."""
        kept = self.pipe.dtype if dtype == "auto" else DTYPES[dtype]
        where = self.pipe.device if device == "auto" else resolve_device(device)
        parts = {name: None if name in without else getattr(self.pipe, name) for name in _PARTS}
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                parts[name] = _placed(part, where, kept, always_copied=name == "unet")
        return _assembled(parts, self.name)


def _placed(part: Any, where: torch.device, dtype: torch.dtype, always_copied: bool) -> Any:
    """Return a part of a pipeline in another place or dtype as a copy; where it is right already, the part itself."""
    if (part.device, part.dtype) != (where, dtype):
        return deepcopy(part).to(where, dtype)
    return deepcopy(part) if always_copied else part


def _assembled(parts: Mapping[str, Any], name: str) -> StableDiffusionPipeline:
    """Return a quiet pipeline of parts that are the user's: diffusers mends outdated configurations in place.

    So modules come in as shallow copies, with their own configuration and the same weights, and the scheduler as a
    whole one.
    """
    own = {name: copy(part) if isinstance(part, nn.Module) else part for name, part in parts.items()}
    own["scheduler"] = deepcopy(parts["scheduler"])
    pipe = StableDiffusionPipeline(**own, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(_name_or_path=name)
    return pipe


def _params(pipe: StableDiffusionPipeline, recipe: str | None, settings: Mapping[str, Any] | None) -> Params:
    """Return the recipe's parameters with the pipeline's own model section.

    Raises:
        ConfigError: a key or value is not accepted, or is for a project only.
    """
    for key in settings or {}:
        if key.partition(".")[0] in Params.model_fields and key.partition(".")[0] not in _SECTIONS:
            raise ConfigError(f"settings: found {key!r}, which has no part here; accepted: {', '.join(_SECTIONS)}")
    size = pipe.unet.config.sample_size
    chosen = recipe or ("tiny" if isinstance(size, int) and size * pipe.vae_scale_factor == _SMALL else "sd15")
    params = merged(read_recipe(chosen), "settings", settings)
    if params.lora.num_processes > 1:
        raise ConfigError(f"lora.num_processes: found {params.lora.num_processes}; accepted: 1, more in a project only")
    if params.sampler.source != "noise":
        raise ConfigError(f"sampler.source: found {params.sampler.source!r}; accepted: noise, text in a project only")
    given = {"id": pipe.name_or_path or type(pipe).__name__, "revision": None, "config": None}
    return params.model_copy(update={"model": params.model.model_copy(update=given)})


def _latents(pipe: StableDiffusionPipeline, preset: Preset, params: Params, progress: bool) -> torch.Tensor:
    """Draw and encode the anchors' images by the pipeline's own parts, with the recipe's scheduler."""
    own = _assembled({name: getattr(pipe, name) for name in _PARTS}, params.model.id)
    use_scheduler(own, params.generate.scheduler)
    anchors = [anchor for _, anchor in preset.pairs()]
    return anchor_latents(own, anchors, preset.draw.prompts, params.latents, params.generate, progress)
