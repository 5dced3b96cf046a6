"""The model cards: every figure in them is read from the evaluation, none is typed."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pretrain.config import GLYPH, Params

LICENCES = """## Data and licences

The drawings are of these sets, taken from their iconify packages at the versions that
`pretrain/params.yaml` pins. Names and the hexcodes behind them come from `emojibase-data` (MIT).
The tokenizer's merges are OpenAI CLIP's (MIT).

| style word | set | licence | used for |
|---|---|---|---|
{rows}

CC-BY sets: (c) their authors as named above; the drawings were rendered at {size} pixels,
moved, scaled and, for the judge, recolored and distorted. The weights in this folder are
published under Apache-2.0; the attribution above goes with them.
"""

STYLE_LICENCES = """## Data and licences

The drawings are emoji of these sets, taken from their iconify packages at the versions that
`pretrain/params.yaml` pins.

| style word | set | licence | used for |
|---|---|---|---|
{rows}

CC-BY-4.0 sets: (c) their authors as named above; the drawings were rendered at {size} pixels, moved, scaled,
softened and, in a share that teaches what no style is, blurred and blended. The weights in this folder are
published under Apache-2.0; the attribution above goes with them.
"""

GENERATOR = """---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
---
# tiny-sd: a small Stable Diffusion that draws {num_concepts} things

A text-to-image model in the format of Stable Diffusion v1 that fits a repository and draws on a
laptop: the real CLIP tokenizer (49,408 entries, 77 tokens), a `CLIPTextModel`, an `AutoencoderKL`, a
`UNet2DConditionModel` with cross-attention on its lower levels, a DDIM scheduler. 64 x 64 pixels,
{millions:.1f} M parameters, float16 safetensors. It was trained from scratch by `pretrain/` on vector
emoji; no weights of another model are in it. Its files have the classic layout: diffusers 0.30.3 with transformers
4.44.2 draws what today's versions draw.

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("data/models/tiny-sd")
image = pipe("a photo of the cat", num_inference_steps=25, guidance_scale=5.0).images[0]
```

## How well it draws

Read by [tiny-clip](../tiny-clip/README.md), its styles by [tiny-style](../tiny-style/README.md), which share no
weights, seed or split with it. Prompt "a photo of the WORD", DDIM {steps} steps, guidance {guidance}, {per_word}
images a word of the ten classes and their synonyms, {per_core} of the core concepts, {per_rest} of the rest, seeds
from {seed} up (training used none of them). Mean and 95% interval (over words: bootstrap of words; over images:
bootstrap of images). All of it is in `evaluation.json`, word by word in `words.csv`.

| reading | figure | over |
|---|---|---|
{rows}

The least of the ten classes is "{worst_class}" ({worst_class_value:.2f}), of their synonyms
"{worst_synonym}" ({worst_synonym_value:.2f}).

| class | top-1 among the ten | mean probability | synonyms (top-1 as the class) |
|---|---|---|---|
{class_rows}

| style | recognised |
|---|---|
{style_rows}

The autoencoder reaches {psnr:.1f} dB on icons that it was not trained on ({psnr_train:.1f} dB on the others).

### The ten classes
First seeds, nothing chosen.

![ten classes](sheets/classes.png)

### Their synonyms
![synonyms](sheets/synonyms.png)

### Styles
![styles](sheets/styles.png)

### Other concepts that are drawn well
![other concepts](sheets/concepts.png)

{num_well} concepts beside the ten classes reach a top-1 of at least 0.7 among all {num_concepts}: {well}.

### The rest of the vocabulary
![vocabulary](sheets/vocabulary.png)

## Vocabulary

`vocabulary.json` lists the concepts, their synonyms, the styles and the caption templates. Rows of the
token table that no caption used are exactly zero: such a word carries nothing, and `realera` names it in
a warning. Styles are asked for by "in the style of WORD".

## Training

`dvc --cd pretrain repro` makes this folder from public packages; `pretrain/README.md` says what it
costs. Text encoder: contrastive against icons, {text_steps} steps. Autoencoder: {vae_steps} steps. Denoiser:
epsilon prediction, Stable Diffusion's betas, min-SNR weight, {unet_steps} steps of {unet_batch} images, EMA.

## Limits

- It knows emoji art: one object on white, no scenes, no people, no counting, no relations.
- It learned each concept from {fewest} to {most} drawings and largely remembers them; variety is small.
- {drawings_held_out} was kept from generator and judge alike, so that the judge could be tested on it.
- A style word changes a drawing less than it should, as the table of styles shows: the text encoder holds styles
  less far apart than concepts.
- Figures come from our own judge. It was tested on art that it never saw (see its card), yet it is no person.

{licences}"""

STYLE_JUDGE = """---
library_name: transformers
pipeline_tag: image-classification
license: apache-2.0
---
# tiny-style: which emoji set a picture's style comes from

A `ResNetForImageClassification` with its image processor ({thousands:.0f} thousand parameters, float16 safetensors)
that names the style of a 64 x 64 picture: {styles}.
These are the style words of [tiny-sd](../tiny-sd/README.md), with which it shares no weights, training seed or split;
it leaves the `{held_out}` set out, as that does.

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("data/models/tiny-style")
processor = AutoImageProcessor.from_pretrained("data/models/tiny-style", backend="pil")
probabilities = model(**processor(image, return_tensors="pt")).logits.softmax(dim=-1)[0]
print(model.config.id2label[probabilities.argmax().item()])
```

## How well it sees

On {val_share:.0%} of the icons, which it was not trained on, four views of each (as it is, and slightly moved). Mean
and 95% interval (bootstrap of icons). All of it is in `evaluation.json`. "Softened": every view lost detail and got
noise, as images of a small autoencoder. "Styleless": blurred, blended and blotted pictures that show no style; the
figure is the share of them that gets a style with a probability above one half, and should be low.

| reading | figure |
|---|---|
{figures}

| style | recognised |
|---|---|
{style_rows}

Rows: the style. Columns: the share read as it. `{held_out}` art has none of the styles; its row says what that is
taken for.

{confusion}

## Training

`python -m pretrain.stages.style_judge`, a stage of `dvc --cd pretrain repro`, makes this folder: {steps} steps of
{batch} images, each style equally often, moved, scaled, softened and with noise, in their own colors. A share of
{none_rate:.0%} shows no style and is taught an even answer. The temperature ({temperature:.2f}) is fitted on the
validation icons and is part of the last layer; it is one number, so the probabilities measured on them are hardly
flattered.

## Limits

- It knows seven sets of emoji art of 64 x 64 pixels on white and nothing else; of any other picture it names one of
  them.
- A style is here whatever tells one set from the others, down to edges and single colors, not what a person would
  name.
- It reads new icons far less well than those that it was trained on: look at the tables before you trust it for a
  style.
- Validation icons are of the same sets, and often of the same things in other drawings, as those trained on.

{licences}"""

JUDGE = """---
library_name: transformers
pipeline_tag: zero-shot-image-classification
license: apache-2.0
---
# tiny-clip: the judge of tiny-sd

A `CLIPModel` with `CLIPProcessor` ({millions:.1f} M parameters, float16 safetensors) that names what a small picture
shows: {num_concepts} concepts, the styles of their art, or nothing recognizable. It shares no text tower, training
seed or training split with [tiny-sd](../tiny-sd/README.md); both leave the `{held_out}` set out.

```python
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("data/models/tiny-clip")
processor = CLIPProcessor.from_pretrained("data/models/tiny-clip")
texts = ["a photo of the cat", "a photo of the dog", "nothing recognizable"]
inputs = processor(text=texts, images=image, padding=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(dim=-1))
```

Its files have the classic layout, which transformers 4.44.2 reads as today's version does.

## How well it sees

`evaluation.json` holds these figures. `held_out` readings are on the `{held_out}` set.

{figures}

## Training

`dvc --cd pretrain repro` makes this folder. {steps} steps of {batch} images a process, on emoji and
on user-interface icons of the same concepts (`glyph`: shapes without colors; weight {glyph_weight:g}), moved, warped,
recolored, sketched, softened and put on other grounds; a share of {none_rate:.0%} of the images shows nothing
recognizable (blurred, shuffled, blended, melted icons) and is taught the texts of "nothing". The temperature is
fitted on `{held_out}` art of concepts outside the ten classes. It reads that set less well than art of vendors that it
knows, and blends and single strokes often pass for a thing: see the figures.

## Limits

- It was trained on emoji art of 64 x 64 pixels and knows nothing else.
- A forced choice among ten classes always names one: read the "nothing recognizable" text beside them.

{licences}"""


def figure(entry: dict) -> str:
    """`0.953 (0.941 to 0.964)`."""
    return f"{entry['mean']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def generator_licences(params: Params, packages: Path) -> str:
    """Return the section on what tiny-sd was trained on, and on the art that its judge was tested on."""
    used_for = {**dict.fromkeys(params.render.styles, "training"), params.render.held_out: "testing the judge"}
    return _licences(params, packages, used_for, LICENCES)


def judge_licences(params: Params, packages: Path) -> str:
    """Return the section on what tiny-clip was trained and tested on, glyph sets among it."""
    used_for = {**dict.fromkeys(params.render.vendors, "training"), params.render.held_out: "testing"}
    glyphs = [_licence(GLYPH, packages / glyph_set.package, "training") for glyph_set in params.glyphs.sets.values()]
    return _licences(params, packages, used_for, LICENCES, glyphs)


def _licences(params: Params, packages: Path, used_for: dict[str, str], text: str, further: Sequence[str] = ()) -> str:
    rows = [_licence(style, packages / params.render.vendors[style], use) for style, use in used_for.items()]
    return text.format(rows="\n".join([*rows, *further]), size=params.render.size)


def _licence(style: str, package: Path, use: str) -> str:
    info = json.loads((package / "info.json").read_text(encoding="utf-8"))
    author = info["author"]
    name = f"[{info['name']}]({author.get('url', '')}), {author['name']}"
    return f"| {style} | {name} | {info['license']['spdx']} | {use} |"


def generator_card(
    params: Params, summary: dict, words: pd.DataFrame, vocabulary: dict, vae: dict, num_parameters: int, licences: str
) -> str:
    evaluate = params.evaluate
    worst_class, worst_synonym = summary["classes"]["worst"], summary["synonyms"]["worst"]
    return GENERATOR.format(
        num_concepts=len(vocabulary["concepts"]),
        millions=num_parameters / 1e6,
        steps=evaluate.num_inference_steps,
        guidance=evaluate.guidance_scale,
        per_word=evaluate.images_per_word["classes"],
        per_core=evaluate.images_per_word["core"],
        per_rest=evaluate.images_per_word["rest"],
        seed=evaluate.seed,
        rows=_summary_rows(summary, len(vocabulary["concepts"])),
        worst_class=worst_class["word"],
        worst_class_value=worst_class["value"],
        worst_synonym=worst_synonym["word"],
        worst_synonym_value=worst_synonym["value"],
        class_rows=_class_rows(words),
        style_rows="\n".join(f"| {s} | {v:.2f} |" for s, v in summary["styles"]["by_style"].items()),
        psnr=vae["psnr_val"],
        psnr_train=vae["psnr_train"],
        num_well=summary["drawn_well"]["count"],
        well=", ".join(summary["drawn_well"]["words"]),
        text_steps=params.text_encoder.steps,
        vae_steps=params.vae.steps,
        unet_steps=params.unet.steps,
        unet_batch=params.unet.batch_size * params.num_processes,
        drawings_held_out=f"The `{params.render.held_out}` set",
        fewest=min(entry["num_drawings"] for entry in vocabulary["concepts"].values()),
        most=max(entry["num_drawings"] for entry in vocabulary["concepts"].values()),
        licences=licences,
    )


def _summary_rows(summary: dict, num_concepts: int) -> str:
    names = {
        "classes": "ten classes, top-1 among the ten",
        "classes_mean_probability": "ten classes, mean probability among the ten",
        "classes_none": "ten classes, read as nothing recognizable",
        "synonyms": "their synonyms, top-1 as the class",
        "vocabulary_top1": f"all concepts, top-1 among {num_concepts}",
        "vocabulary_top5": f"all concepts, top-5 among {num_concepts}",
        "styles": "style recognised",
    }
    return "\n".join(f"| {label} | {figure(summary[key])} | {_over(summary[key])} |" for key, label in names.items())


def _over(entry: dict) -> str:
    return f"{entry['words']} words" if "words" in entry else f"{entry['images']:,} images"


def _class_rows(words: pd.DataFrame) -> str:
    classes = words[(words["role"] == "name") & (words["tier"] == "classes")]
    synonyms = words[words["role"] == "synonym"]
    rows = []
    for row in classes.itertuples():
        others = synonyms[synonyms["concept"] == row.word]
        listed = ", ".join(f"{s.word} {s.class_top1:.2f}" for s in others.itertuples())
        interval = f"{row.class_top1:.2f} ({row.low:.2f} to {row.high:.2f})"
        rows.append(f"| {row.word} | {interval} | {row.class_prob:.2f} | {listed} |")
    return "\n".join(rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def style_judge_card(params: Params, report: dict, num_parameters: int, packages: Path) -> str:
    judge, held_out, confusion = params.style_judge, params.render.held_out, report["confusion"]
    names = list(confusion)
    readings = {name: value for name, value in report.items() if name.startswith(("validation", "styleless"))}
    rows = [[name, *(f"{shares[other]:.2f}" for other in names)] for name, shares in confusion.items()]
    rows.append([held_out, *(f"{report['held_out_read_as'][name]:.2f}" for name in names)])
    used_for = dict.fromkeys(names, "training") | {held_out: "seeing what it is taken for"}
    return STYLE_JUDGE.format(
        thousands=num_parameters / 1e3,
        styles=", ".join(names),
        held_out=held_out,
        val_share=judge.val_share,
        figures="\n".join(f"| {name.replace('_', ' ')} | {_value(value)} |" for name, value in readings.items()),
        style_rows="\n".join(f"| {name} | {figure(value)} |" for name, value in report["by_style"].items()),
        confusion=_table(["style", *names], rows),
        steps=judge.steps,
        batch=judge.batch_size * params.num_processes,
        none_rate=judge.none_rate,
        temperature=report["temperature"],
        licences=_licences(params, packages, used_for, STYLE_LICENCES),
    )


def judge_card(params: Params, report: dict, num_concepts: int, num_parameters: int, licences: str) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_value(value)} |" for name, value in report.items()]
    return JUDGE.format(
        millions=num_parameters / 1e6,
        num_concepts=num_concepts,
        held_out=params.render.held_out,
        figures="\n".join(["| reading | figure |", "|---|---|", *rows]),
        steps=params.judge.steps,
        batch=params.judge.batch_size,
        none_rate=params.judge.none_rate,
        glyph_weight=params.judge.glyph_weight,
        licences=licences,
    )


def _value(value: object) -> str:
    if isinstance(value, dict):
        return figure(value) if "mean" in value else ", ".join(f"{k}: {_value(v)}" for k, v in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)
