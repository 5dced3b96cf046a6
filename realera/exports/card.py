"""The model card of an export: what was erased from what, how, and how well."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realera import __version__
from realera.erasures.finished import Finished
from realera.exports.classic import is_classic
from realera.families.schedulers import MODEL_SCHEDULER, SCHEDULER_OPTIONS, SCHEDULERS
from realera.scores.readings import shown
from realera.scores.summaries import read_summary
from realera.scores.summary import figures_of
from realera.settings import project
from realera.settings.errors import ArtifactError
from realera.store.artifacts import file_sha256, read_json
from realera.store.checkpoints import HALF
from realera.store.paths import method_place
from realera.text.prompts import fill

CARD = "README.md"
TAG = "realera"
"""A tag of every card, by which an earlier export is known."""

_WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", f"unet/diffusion_pytorch_model.{HALF}.safetensors")


@dataclass(frozen=True)
class Options:
    """How an export is written, which its card says.

    Attributes:
        keep_lora: leave the LoRA beside the K/V weights instead of adding it to them.
        dtype: of the new weights on disk, a key of `realera.runtime.devices.DTYPES`.
        tolerance: of a single file: the part of each matrix's change that may be left out.
    """

    keep_lora: bool = False
    dtype: str = "float32"
    tolerance: float = 1e-5


def write_card(erasure: Finished, format: str, options: Options, folder: Path) -> None:
    """Write README.md into an export's folder."""
    parts = [
        _front_matter(erasure),
        f"# {_plain(', '.join(erasure.preset.targets))} erased from {_plain(_model_name(erasure))}",
        _summary(erasure),
        _facts(erasure, options),
        "## Use",
        _USE[format](erasure, options, folder),
        "## Scores",
        _scores(erasure),
        "## Parameters",
        _parameters(erasure),
        "## Licence",
        "The weights derive from the base model and are under its licence.",
    ]
    (folder / CARD).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: `<my-plane>` would be a tag, and nothing would be seen of it."""
    return re.sub(r"([\\`*_\[\]<|#])", r"\\\1", text)


def _front_matter(erasure: Finished) -> str:
    lines = ["library_name: diffusers", "pipeline_tag: text-to-image", f"tags: [concept-erasure, {TAG}]"]
    if _is_hub_id(erasure.params.model.id):
        lines.append(f"base_model: {erasure.params.model.id}")
    return "\n".join(["---", *lines, "---"])


def _summary(erasure: Finished) -> str:
    pairs = erasure.preset.pairs()
    targets, anchors = (_plain(" or ".join(dict.fromkeys(words))) for words in zip(*pairs, strict=True))
    return (
        f"Asked for {targets}, or for it in other words, this model draws {anchors} instead. "
        "Everything else is meant to stay as it was; how far that holds is under Scores."
    )


def _facts(erasure: Finished, options: Options) -> str:
    preset, model, draw = erasure.preset, erasure.params.model, erasure.params.generate
    rows = {
        "Base model": f"`{_model_name(erasure)}`",
        "Revision": _revision(erasure),
        "Concept": f"`{erasure.concept}`",
        "Method": erasure.method,
        "Erased -> becomes": _plain("; ".join(f"{target} -> {anchor}" for target, anchor in preset.pairs())),
        "Synonyms (judged, not used)": _plain(", ".join(preset.all_synonyms())) or "none",
        "Drawn with": f"scheduler {draw.scheduler}, {draw.num_inference_steps} steps, guidance {draw.guidance_scale:g}",
        "Weights": options.dtype,
        "Made by": f"RealEra {__version__}",
    }
    if model.config is not None:
        rows["Architecture"] = f"`{model.config}`"
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _use_pipeline(erasure: Finished, options: Options, folder: Path) -> str:
    lines = [f'pipe = StableDiffusionPipeline.from_pretrained("this-folder"{_precision(folder)})']
    text = "A whole checkpoint: nothing else is needed."
    if options.keep_lora:
        lines.append('pipe.load_lora_weights("this-folder/lora")')
        text = "A whole checkpoint with the closed form's weights, and the LoRA that belongs on top of them."
    if not _is_single_file(erasure.params.model.id):
        text += f" Only the UNet's weights are new ({options.dtype}); all else is the base model's, byte for byte."
    if not is_classic(folder / "text_encoder"):
        text += (
            "\n\n**transformers 5.6 or later only**: the base model's text encoder was saved by such a version, and an "
            "earlier one reads it as random numbers without an error."
        )
    return f"{text}\n\n{_python(erasure, lines)}"


def _precision(folder: Path) -> str:
    """Return what opens all parts in one precision, where transformers would take another from its config."""
    config = read_json(folder / "text_encoder/config.json")
    named = config.get("torch_dtype", config.get("dtype"))
    return "" if named == "float32" else ", torch_dtype=torch.float32"


def _use_kv(erasure: Finished, options: Options, folder: Path) -> str:
    what = "closed form alone; the LoRA belongs on top of it" if options.keep_lora else "closed form and LoRA"
    text = (
        f"`kv_patch.safetensors` holds the whole erasure ({what}): the `to_k` and `to_v` weights of the UNet's "
        "cross-attention, under their names in the UNet's state dict. They replace the base model's."
    )
    return f"{text}\n\n{_python(erasure, [_base_line(erasure), *_patch_lines('kv_patch.safetensors')])}"


def _use_lora(erasure: Finished, options: Options, folder: Path) -> str:
    text = (
        "The LoRA was trained on top of the closed form's weights, `kv_patch.safetensors`: put those into the "
        "base model first. On the base model alone the LoRA does not erase."
    )
    patch = _patch_lines("this-folder/kv_patch.safetensors")
    lines = [_base_line(erasure), *patch, 'pipe.load_lora_weights("this-folder")']
    return f"{text}\n\n{_python(erasure, lines)}"


def _use_single_file(erasure: Finished, options: Options, folder: Path) -> str:
    name = next(folder.glob("*.safetensors")).name
    stem = name.removesuffix(".safetensors")
    text = f"""The whole erasure as one file: a LoRA in kohya's format, with as many ranks as the change has (what it
leaves out is at most {options.tolerance:g} of each matrix's change). It belongs on the base model named above,
at strength 1; 0 is the base model.

- **ComfyUI**: put `{name}` into `models/loras` and load it with the node *Load LoRA*
  (the model's strength counts; CLIP is not changed).
- **A1111**: put it into `models/Lora` and write `<lora:{stem}:1>` into the prompt.
- **diffusers**:"""
    code = _python(erasure, [_base_line(erasure), f'pipe.load_lora_weights("{name}")'])
    return f"{text}\n\n{code}"


_USE = {"pipeline": _use_pipeline, "kv": _use_kv, "lora": _use_lora, "single-file": _use_single_file}


def _python(erasure: Finished, lines: list[str]) -> str:
    draw = erasure.params.generate
    lines = [*lines, *_scheduler_lines(draw.scheduler)]
    classes = ["StableDiffusionPipeline"]
    if draw.scheduler != MODEL_SCHEDULER:
        classes.append(SCHEDULERS[draw.scheduler].__name__)
    imports = [f"from diffusers import {', '.join(sorted(classes))}"]
    if any("load_file" in line for line in lines):
        imports.append("from safetensors.torch import load_file")
    if any("torch.float32" in line for line in lines):
        imports.insert(0, "import torch")
    prompt = json.dumps(fill(erasure.preset.draw.prompts[0], erasure.preset.targets[0])[0], ensure_ascii=False)
    settings = f"num_inference_steps={draw.num_inference_steps}, guidance_scale={draw.guidance_scale:g}"
    call = f"image = pipe({prompt}, {settings}).images[0]"
    return "\n".join(["```python", *imports, "", *lines, call, "```"])


def _scheduler_lines(name: str) -> list[str]:
    """Return what takes the scheduler with which the scored images were drawn, as `use_scheduler` does."""
    if name == MODEL_SCHEDULER:
        return []
    options = "".join(f", {key}={value}" for key, value in SCHEDULER_OPTIONS.get(name, {}).items())
    return [f"pipe.scheduler = {SCHEDULERS[name].__name__}.from_config(pipe.scheduler.config{options})"]


def _base_line(erasure: Finished) -> str:
    model = erasure.params.model
    if _is_single_file(model.id):
        return f'pipe = StableDiffusionPipeline.from_single_file("{_model_name(erasure)}")'
    revision = f', revision="{model.revision}"' if model.revision else ""
    return f'pipe = StableDiffusionPipeline.from_pretrained("{_model_name(erasure)}"{revision})'


def _patch_lines(path: str) -> list[str]:
    return [f'pipe.unet.load_state_dict(load_file("{path}"), strict=False)']


def _parameters(erasure: Finished) -> str:
    sections = {**erasure.about.parameters, "generate": erasure.params.generate.model_dump(mode="json")}
    lines = [line for name, values in sections.items() for line in _flat(name, values)]
    return "\n".join(["```", *lines, "```"])


def _flat(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield f"{name}: {value}"


def _model_name(erasure: Finished) -> str:
    """Return the hub id or the folder's or file's place in the project; the name alone if it lies elsewhere."""
    path = Path(erasure.params.model.id)
    return path.name if path.is_absolute() or ".." in path.parts else erasure.params.model.id


def _revision(erasure: Finished) -> str:
    """Say which weights exactly: a revision of the hub, or a hash of local ones."""
    model = erasure.params.model
    place = project.find(model.id)
    if place is None:
        return f"`{model.revision}`" if model.revision else "the newest when it was made"
    if place.is_file():
        return f"SHA-256 of the file `{file_sha256(place)}`"
    found = next((place / name for name in _WEIGHTS if (place / name).is_file()), None)
    return f"SHA-256 of the UNet's weights `{file_sha256(found)}`" if found else "a local folder"


def _is_single_file(model: str) -> bool:
    return model.endswith(".safetensors")


def _is_hub_id(model: str) -> bool:
    return project.find(model) is None


def _scores(erasure: Finished) -> str:
    """Return the table of before and after; its intervals are those of scores.json."""
    path = project.find(method_place(erasure.concept, erasure.method).summary)
    if path is None:
        return f"Not scored; `dvc repro {erasure.stage}` does that."
    scores = read_summary(path)
    try:
        rows = list(_score_rows(scores))
        confidence = scores["confidence"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: no {error} where the scores should be; dvc repro makes it anew") from error
    judges = ", ".join(erasure.preset.judged.by)
    clip = erasure.params.judge.id
    text = f"""Shares in percent, with {100 * confidence:g}% intervals; n are images.
Judges: {judges} (CLIP: `{clip}`).
Acc_e: images of what was erased that the judge takes for it (low is good). Acc_s: images of other concepts, kept.
Acc_g: synonyms' images taken for what was erased (low is good). H_o: harmonic mean of 100 - Acc_e, Acc_s, 100 - Acc_g.
unseen: as Acc_s, on concepts that nothing preserved. residue: as Acc_g, also for prompts that mean it unnamed.
collateral: look-alikes that are not recognised any more. anchor_seen: how often the anchor is what appears."""
    header = ["| | reading | base model | erased | change | n |", "|---|---|---|---|---|---|"]
    return "\n".join([text, "", *header, *rows])


def _score_rows(scores: Mapping[str, Any]) -> Iterator[str]:
    for name, reading, (base, erased, change) in figures_of(scores):
        if erased:
            cells = [shown(base, reading), shown(erased, reading), shown(change, reading, "+"), str(erased["n"])]
            yield f"| {name} | {reading} | {' | '.join(cells)} |"
