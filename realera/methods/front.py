"""Erase from an open pipeline: no project, no files but what is saved.

    erasure = realera.erase(pipe, target="airplane", anchor="sun")
    erasure.apply(pipe); erasure.remove(pipe); erasure.save("erased/")

The same functions as the stages of the graph, on the same kinds of files, in a scratch folder.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from realera.drawing.latents import anchor_latents
from realera.erasures.apply import carries_erasure
from realera.erasures.artifact import Erasure, weights_sha256
from realera.families import cross_attention
from realera.families.registry import family_of_class
from realera.families.schedulers import use_scheduler
from realera.methods.seam import Task, check_method, find_method
from realera.runtime.devices import DTYPES, resolve_device
from realera.settings.config import Params
from realera.settings.errors import ConfigError, ModelError
from realera.settings.presets import EVERYDAY, VOCABULARY, Preset
from realera.settings.recipes import merged, read_recipe
from realera.settings.yaml_file import validate
from realera.store.scratch import fingerprint, scratch
from realera.text.encoding import encode_preset
from realera.text.vocabulary import read_concepts

_TEMPLATES = {"object": "object", "celebrity": "celebrity", "style": "artist", "explicit": "explicit"}
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_SMALL = 64
"""Pixels of the embedded model's images."""


def erase(
    pipe: StableDiffusionPipeline,
    target: str | Sequence[str],
    anchor: str | Sequence[str],
    *,
    preserve: Sequence[str] | None = None,
    synonyms: Sequence[str] = (),
    method: str = "realera",
    task: str = "object",
    recipe: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Erasure:
    """Erase a concept from an open model; the pipeline itself is not changed.

    Half-finished work is kept in the user's cache folder: after an interruption the same call goes on from there.

    Args:
        pipe: the unedited model, in any dtype, on any device.
        target: what is erased; several are erased together.
        anchor: what is drawn instead: one, or one for each target.
        preserve: words that stay. None: the model's own vocabulary if it has one, else 400 everyday nouns. Targets and
            synonyms are never among them.
        synonyms: other words for the targets: they are not preserved (and not given to the method either).
        method: realera, uce: see docs/methods.md.
        task: object, celebrity, style or explicit: whose templates the words are put into.
        recipe: tiny, sd15 or the path of a YAML file; None: sd15, or tiny for images of 64 pixels.
        settings: {"lora.steps": 50}, in place of the recipe's.

    Raises:
        ConfigError: a value is not accepted; the message names it, what was found and what is accepted.
        ModelError: the pipeline is of another family, or carries an erasure.
        MiningError: no sample can fulfil the sampler's thresholds.
    """
    family = family_of_class(pipe.name_or_path or "the pipeline", type(pipe).__name__).key
    check_method(method, family)
    if carries_erasure(pipe):
        raise ModelError("this pipeline carries an erasure; remove it first, or save the pipeline and open that one")
    preset = make_preset(pipe, target, anchor, preserve, synonyms, task)
    params = _params(pipe, recipe, settings)
    copies = Copies(pipe)
    name = "-".join(preset.targets)
    table = encode_preset(preset, params.encode, copies.open(("unet", "vae"), dtype="float32"), params.model.id)
    latents = partial(_latents, pipe, preset, params)
    asked = Task(name, preset, params, table, family, copies.open, latents)
    weights = weights_sha256(cross_attention.weights(pipe.unet))
    parts = [method, weights, params.model_dump(mode="json"), preset.model_dump(mode="json")]
    with scratch("erase", fingerprint(parts, [])) as folder:
        return find_method(method).erase(asked, folder)


def make_preset(
    pipe: StableDiffusionPipeline,
    target: str | Sequence[str],
    anchor: str | Sequence[str],
    preserve: Sequence[str] | None = None,
    synonyms: Sequence[str] = (),
    task: str = "object",
) -> Preset:
    """Return the preset that `erase` makes of its arguments, which has them.

    Raises:
        ConfigError: a word is blank, a target is its own anchor, the numbers do not fit, or there is no such task.
    """
    if task not in _TEMPLATES:
        raise ConfigError(f"task: found {task!r}; accepted: {', '.join(_TEMPLATES)}")
    targets, anchors = ([each] if isinstance(each, str) else list(each) for each in (target, anchor))
    _check_words(targets, anchors)
    lists = [VOCABULARY if read_concepts(pipe.name_or_path or "") else EVERYDAY] if preserve is None else []
    values = {
        "task": task,
        "targets": targets,
        "anchors": anchors,
        "synonyms": {targets[0]: list(dict.fromkeys(synonyms))} if synonyms and targets else {},
        "classes": "",
        "preserve": {"lists": lists, "words": list(preserve or ()), "texts": [""]},
        "templates": _TEMPLATES[task],
        "neighbors": [],
        "draw": {},
        "judged": {},
    }
    return validate(values, Preset, "erase")


def _check_words(targets: Sequence[str], anchors: Sequence[str]) -> None:
    if len(anchors) not in (1, len(targets)):
        raise ConfigError(f"anchor: found {len(anchors)}; accepted: one, or one for each of the {len(targets)} targets")
    if both := set(targets) & set(anchors):
        raise ConfigError(f"anchor: found {min(both)!r}, which is a target; accepted: another word")
    if len(set(targets)) < len(targets):
        raise ConfigError(f"target: found {list(targets)}; accepted: each once")


@dataclass(frozen=True)
class Copies:
    """Opens a live pipeline again and again, as `open_pipeline` opens a checkpoint.

    Attributes:
        pipe: the user's; nothing of it is changed.
    """

    pipe: StableDiffusionPipeline

    def open(self, without: Sequence[str] = (), dtype: str = "auto", device: str = "auto") -> StableDiffusionPipeline:
        """Return a pipeline whose image model is a copy, since methods train it; what would move is copied, too."""
        kept = self.pipe.dtype if dtype == "auto" else DTYPES[dtype]
        where = self.pipe.device if device == "auto" else resolve_device(device)
        parts = {name: None if name in without else getattr(self.pipe, name) for name in _PARTS}
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                parts[name] = _placed(part, where, kept, always_copied=name == "unet")
        opened = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        opened.set_progress_bar_config(disable=True)
        opened.register_to_config(_name_or_path=self.pipe.name_or_path)
        return opened


def _placed(part: Any, where: torch.device, dtype: torch.dtype, always_copied: bool) -> Any:
    """Return a part of a pipeline in another place or dtype as a copy; where it is right already, the part itself."""
    if (part.device, part.dtype) != (where, dtype):
        return deepcopy(part).to(where, dtype)
    return deepcopy(part) if always_copied else part


def _params(pipe: StableDiffusionPipeline, recipe: str | None, settings: Mapping[str, Any] | None) -> Params:
    """Return the recipe's parameters with the pipeline's own model section."""
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    chosen = recipe or ("tiny" if size == _SMALL else "sd15")
    params = merged(read_recipe(chosen), f"recipe {chosen}", settings)
    model = params.model.model_copy(update={"id": pipe.name_or_path or type(pipe).__name__, "config": None})
    return params.model_copy(update={"model": model})


def _latents(pipe: StableDiffusionPipeline, preset: Preset, params: Params) -> torch.Tensor:
    """Draw and encode the anchors' images by the pipeline's own parts, with the recipe's scheduler."""
    parts = {name: getattr(pipe, name) for name in _PARTS}
    own = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    use_scheduler(own, params.generate.scheduler)
    anchors = [anchor for _, anchor in preset.pairs()]
    return anchor_latents(own, anchors, preset.draw.prompts, params.latents, params.generate)
