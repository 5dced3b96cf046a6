"""The report's English: what each figure means, in one sentence."""

from collections.abc import Mapping

METRICS: Mapping[str, tuple[str, str, str]] = {
    "Acc_e": (
        "Erased",
        "Acc_e, lower is better",
        "pictures asked for by the concept's own name that are still taken for it",
    ),
    "Acc_s": (
        "Kept",
        "Acc_s, higher is better",
        "pictures of the other classes that are still taken for what was asked",
    ),
    "Acc_g": (
        "In other words",
        "Acc_g, lower is better",
        "pictures asked for by a synonym (or by a prompt that means it) that are still taken for the concept",
    ),
    "H_o": (
        "Overall",
        "H_o, higher is better",
        "one number for the three: high only if erased, kept and general at once",
    ),
}
"""Metric -> title, wish, what it counts."""

READINGS: Mapping[str, str] = {
    "probability": "mean probability",
    "top1": "top-1",
    "style_probability": "style, mean probability",
    "style_top1": "style, top-1",
    "identity_probability": "face, mean probability",
    "identity_top1": "face, top-1",
    "no_face": "no face",
    "clip_score": "CLIP score",
    "nudenet_images": "pictures with an exposed part",
    "nudenet_boxes": "exposed parts a picture",
    "distance": "distance from the original",
}

JUDGES: Mapping[str, str] = {
    "classes": "a CLIP model in a forced choice",
    "style": "a classifier of styles",
    "identity": "a classifier of faces",
    "clip_score": "a CLIP model's score of picture and text",
    "nudenet": "NudeNet",
    "distance": "a distance between the pictures of a pair",
    "frechet": "distances between sets of pictures",
}

PAPER_READINGS: Mapping[str, tuple[str, ...]] = {
    "object": ("probability",),
    "celebrity": ("identity_top1",),
    "style": ("clip_score",),
    "explicit": ("clip_score",),
}
"""Task -> the reading that is the paper's own."""

PAPER = (
    "The paper's rows are Stable Diffusion v1.4 read by the paper's judges, ours are the model and judges named above: "
    "different models, so compare the pattern, not the level."
)

FILES: Mapping[str, str] = {
    "i2p": "Prompts of the I2P benchmark: people ask for something else, and models tend to draw nudity.",
    "coco": "Captions of everyday pictures: what an erasure should leave alone.",
}

PARTS: Mapping[str, str] = {
    "": "Its rows, one image each.",
    "sensitive": "The prompts of its pairs that ask for the concept.",
    "normal": "The prompts of its pairs that do not.",
    "erased": "Its rows of concepts that are erased, read for these: lower is better.",
    "kept": "Its rows of other concepts, read for these: higher is better.",
}
"""What the rows of a prompt file are."""

GROUPS: Mapping[str, tuple[str, str]] = {
    "erase": ("The erased concept", "asked for by its own name"),
    "synonym": ("Its synonyms", "never used to erase; they must fade with the concept"),
    "associated": ("Without the name", "prompts that mean the concept and do not name it; never used to erase"),
    "preserve": ("What must stay", "the classes of the preserve set"),
    "lookalike": ("Look-alikes", "near the concept, in no preserve set; they must stay"),
    "unseen": ("Unseen concepts", "in no preserve set: what happens to things nobody thought of"),
    "rows": ("Prompt files", "the first rows of each file"),
    "listed": ("Lists", "the first rows of each prompt file that says what its pictures are judged as"),
    "anchor": (
        "The anchor",
        "by the original model: what the concept is to become. The judge may not answer with its name here",
    ),
}

EFFECTS: Mapping[str, tuple[str, str]] = {
    "unseen": (
        "Unseen concepts",
        "How often concepts that no preserve set holds are still recognised: Acc_s without the flattery.",
    ),
    "residue": (
        "Residue",
        "What means the concept without its name (synonyms, whole prompts) and is still taken for it: lower is better.",
    ),
    "collateral": (
        "Collateral",
        "Look-alikes that the original model draws recognisably and the erased model does not: lower is better.",
    ),
    "anchor_seen": (
        "The anchor appears",
        "Pictures asked for by the concept's name that the judge takes for the anchor, with it among its words.",
    ),
    "anchor_seen_synonym": (
        "The anchor appears for synonyms",
        "The same for pictures asked for by a synonym.",
    ),
}

FLOOR = (
    "Pictures of the anchor by the original model, read as the erased concept. They show none of it: "
    "a forced choice that has no better word gives it this much, and Acc_e cannot be expected below it."
)

TERMS: tuple[tuple[str, str], ...] = (
    ("Acc_e", "How much of the concept is left in pictures asked for by its own name (efficacy; lower is better)."),
    ("Acc_s", "How well what must stay is still drawn (specificity; higher is better)."),
    (
        "Acc_g",
        "How much of the concept is left in pictures asked for by its synonyms, or by prompts that mean it "
        "(generality; lower is better).",
    ),
    ("H_o", "The harmonic mean of 100 - Acc_e, Acc_s and 100 - Acc_g: it is high only if all three are good."),
    (
        "mean probability",
        "The judge's probability for the wanted word, averaged over pictures: what the paper's tables call accuracy.",
    ),
    (
        "top-1",
        "The share of pictures for which the wanted word is the judge's likeliest: a plain accuracy.",
    ),
    ("residue", "What is left of the concept in all pictures that mean it without its name: lower is better."),
    (
        "collateral",
        "Look-alikes that the original model drew recognisably and the erased model does not: lower is better.",
    ),
    (
        "CLIP score",
        "How well picture and text agree to a CLIP model. It hardly tells an edited style from an unedited one.",
    ),
    (
        "intervals",
        "The range that fits the pictures drawn, for these words and seeds; base and erased model draw the same "
        "prompts from the same noise, so the change is compared picture by picture.",
    ),
    (
        "residual",
        "How far a matrix's outputs are from the wanted ones, relative to these: "
        "the anchor's outputs for the erased prompts, its own old outputs for the preserved ones.",
    ),
    (
        "condition number",
        "How unevenly the prompts fill the embedding space: the larger, the more digits the solve loses, "
        "which is why it is done in float64.",
    ),
)

SOLVE = "Each cross-attention matrix is to answer the erased prompts as the anchor's, and what is preserved as before."
SOLVE_OFF = "Switched off (solver.enabled: false): the weights stay as they were."

EMBEDDED = (
    "This is the small model that lies in the repository (64 x 64 pixels, some hundred words): its figures "
    "show how the method behaves and are not those of Stable Diffusion v1.4."
)
OTHER_MODEL = "The figures hold for this model and judge; compare them with others only at the same model and judge."
