"""Read the drawings with the judge: how often each word gives what it names, with 95% intervals."""

import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from PIL import Image
from transformers import BaseImageProcessor, CLIPModel, CLIPProcessor, PreTrainedModel

from pretrain.captions import NONE_PROMPT, PROMPT
from realera.judges.classifier import class_probabilities, labels
from realera.judges.clip import image_features, text_features
from realera.scores.statistics import bootstrap_interval, wilson_interval

DRAWN_WELL = 0.7  # top-1 among all concepts
SEED = 0  # of the bootstrap

Clip: TypeAlias = tuple[CLIPModel, CLIPProcessor]
Classifier: TypeAlias = tuple[PreTrainedModel, BaseImageProcessor]


def read_drawings(
    drawings: pd.DataFrame,
    judge: Clip,
    style_judge: Classifier,
    vocabulary: dict,
) -> pd.DataFrame:
    """One row an image: what each reading says of it.

    Args:
        drawings: what `pretrain.drawing.draw_subjects` gives.
        judge: tiny-clip and its processor.
        style_judge: tiny-style and its processor; it reads the images of role "style".
        vocabulary: what stage caption has written.

    Added columns: `class_top1`, `class_prob` (softmax over the ten classes), `none_prob` (the none text's share
    beside all concepts), `top1`, `top5` (among all concepts), `style_top1` (None but for role
    "style").
    """
    names = list(vocabulary["concepts"])
    classes = [name for name in names if vocabulary["concepts"][name]["tier"] == "classes"]
    model, processor = judge
    images = [Image.open(io.BytesIO(png)) for png in drawings["png"]]
    features = image_features(model, processor, images, batch_size=256)

    def logits(texts: Sequence[str]) -> np.ndarray:
        scale = model.logit_scale.exp().item()
        return (scale * features @ text_features(model, processor, texts).T).double().cpu().numpy()

    by_class = logits([PROMPT.format(word=name) for name in classes])
    by_concept = logits([PROMPT.format(word=name) for name in names] + [NONE_PROMPT])
    read = drawings.drop(columns="png").copy()
    read["class_top1"] = np.array(classes)[by_class.argmax(1)]
    own_class = [classes.index(c) if c in classes else -1 for c in drawings["concept"]]
    read["class_prob"] = np.where(np.array(own_class) >= 0, _softmax(by_class)[np.arange(len(read)), own_class], np.nan)
    read["none_prob"] = _softmax(by_concept)[:, -1]
    own = np.array([names.index(c) for c in drawings["concept"]])
    order = np.argsort(-by_concept[:, :-1], axis=1)
    read["read_as"] = np.array(names)[order[:, 0]]
    read["top1"] = order[:, 0] == own
    read["top5"] = (order[:, :5] == own[:, None]).any(1)
    styled = np.flatnonzero(read["role"] == "style")
    read["style_top1"] = None
    read.loc[read.index[styled], "style_top1"] = _read_styles([images[i] for i in styled], *style_judge)
    return read


def _read_styles(images: Sequence[Image.Image], model: PreTrainedModel, processor: BaseImageProcessor) -> np.ndarray:
    return np.array(labels(model))[class_probabilities(model, processor, images).argmax(1)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def word_table(read: pd.DataFrame) -> pd.DataFrame:
    """One row a word: image counts and the readings' means, with intervals for the one that counts."""
    rows = []
    for (role, word), group in read[read["role"] != "style"].groupby(["role", "word"], sort=False):
        is_class = group["tier"].iloc[0] == "classes"
        hits = (group["class_top1"] == group["concept"]) if is_class else group["top1"]
        low, high = wilson_interval(int(hits.sum()), len(group))
        rows.append(
            {
                "role": role,
                "word": word,
                "concept": group["concept"].iloc[0],
                "tier": group["tier"].iloc[0],
                "num_images": len(group),
                "class_top1": round(hits.mean(), 4) if is_class else None,
                "class_prob": round(group["class_prob"].mean(), 4) if is_class else None,
                "top1": round(group["top1"].mean(), 4),
                "top5": round(group["top5"].mean(), 4),
                "none": round((group["none_prob"] > 0.5).mean(), 4),
                "low": round(low, 4),
                "high": round(high, 4),
            }
        )
    return pd.DataFrame(rows)


def summarize(read: pd.DataFrame, words: pd.DataFrame) -> dict:
    """The figures of the model card; every mean with its 95% interval and the number of images or words."""
    names, synonyms = words[words["role"] == "name"], words[words["role"] == "synonym"]
    classes = names[names["tier"] == "classes"]
    others = names[names["tier"] != "classes"]
    well = others[others["top1"] >= DRAWN_WELL]
    styles = read[read["role"] == "style"]
    right_style = styles["style_top1"] == styles["style"]
    images = read[(read["role"] == "name") & (read["tier"] == "classes")]
    return {
        "classes": _over_words(classes["class_top1"]) | {"worst": _worst(classes, "class_top1")},
        "classes_mean_probability": _over_images(images["class_prob"]),
        "classes_none": _over_images(images["none_prob"] > 0.5),
        "synonyms": _over_words(synonyms["class_top1"]) | {"worst": _worst(synonyms, "class_top1")},
        "vocabulary_top1": _over_words(names["top1"]),
        "vocabulary_top5": _over_words(names["top5"]),
        "drawn_well": {"count": len(well), "words": sorted(well["word"])},
        "styles": _over_images(right_style)
        | {"by_style": {s: round(float(g.mean()), 4) for s, g in right_style.groupby(styles["style"])}},
    }


def _over_words(values: pd.Series) -> dict:
    """The mean over words; the interval resamples words."""
    low, high = bootstrap_interval(values.to_numpy(float), SEED)
    return {"mean": round(float(values.mean()), 4), "low": round(low, 4), "high": round(high, 4), "words": len(values)}


def _over_images(values: pd.Series) -> dict:
    low, high = bootstrap_interval(values.to_numpy(float), SEED)
    return {"mean": round(float(values.mean()), 4), "low": round(low, 4), "high": round(high, 4), "images": len(values)}


def _worst(table: pd.DataFrame, column: str) -> dict:
    row = table.loc[table[column].idxmin()]
    return {"word": row["word"], "value": row[column]}
