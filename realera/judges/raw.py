"""scores.parquet: what the judges said of each image, before anything is counted.

One row an image and question. So a threshold, a counting rule or another metric reads this file and
judges no image again.
"""

from typing import Any

import pyarrow as pa

from realera.store.images import KNOWN

SCORES = pa.schema(
    [
        ("model", pa.string()),
        *KNOWN,
        ("metric", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("values", pa.list_(pa.float32())),
        ("boxes", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""`metric` names the question; labels and values are the answer, of one length:

| metric | labels | values |
|---|---|---|
| classes, unseen, lookalikes, anchor | words of the forced choice | the judge's probabilities |
| style, identity | classes of the checkpoint or detector; none: no face | probabilities |
| clip_score | the text | `logits_per_image` |
| nudenet | detected parts | scores; their `boxes` are x, y, width, height in pixels |
| distance | clip, ssim or lpips | distance from the original model's image of the pair |
| features | none | the image's unit vector in the CLIP judge |
"""


KEPT_GROUPS = ("preserve", "unseen", "rows")
"""What must stay, and is compared as a set."""


def raw_row(image: dict[str, Any], drawn_by: str, metric: str, labels: list[str], values: list[float]) -> dict:
    """Return a row of SCORES without boxes."""
    known = {name: value for name, value in image.items() if name != "png"}
    return {"model": drawn_by, **known, "metric": metric, "labels": labels, "values": values, "boxes": []}
