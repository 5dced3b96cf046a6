"""Who reads the images: a judge takes images of both models and gives raw rows.

    rows = judge_images(preset, params, images)       # every judge that the preset names

| judge | what it is | asked of |
|---|---|---|
| classes | forced choices of a CLIP model (section 5.1) | all but prompt files |
| style, identity | an image-classification checkpoint; identity also an external detector's CSV | all images |
| clip_score | a CLIP model's `logits_per_image` with the prompt | all images |
| nudenet | the detector of the package nudenet | all images |
| distance | between the two images of a pair | all pairs |
| frechet | a CLIP model's image features, for distances between sets | what must stay |
"""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
from tqdm import tqdm

from realera.judges.classes import open_classes
from realera.judges.classifier import open_style
from realera.judges.clip_score import open_clip_score
from realera.judges.context import BATCH, Batch, Context, Judge
from realera.judges.distance import open_distance
from realera.judges.frechet import open_frechet
from realera.judges.identity import open_identity
from realera.judges.nudenet import open_nudenet
from realera.judges.pictures import Images
from realera.judges.raw import SCORES
from realera.settings.config import Params
from realera.settings.presets import Preset
from realera.store.images import decode_png

OPENERS: Mapping[str, Callable[[Context], Judge]] = {
    "classes": open_classes,
    "style": open_style,
    "identity": open_identity,
    "clip_score": open_clip_score,
    "nudenet": open_nudenet,
    "distance": open_distance,
    "frechet": open_frechet,
}
"""Name of a judge -> what opens it."""


def judge_images(
    preset: Preset,
    params: Params,
    images: Sequence[Images],
    originals: Sequence[Images] = (),
    progress: bool = False,
) -> pa.Table:
    """Put every image to the preset's judges; return rows of `SCORES`.

    Pictures are read a batch at a time, so that memory doesn't grow with their number.

    Args:
        preset: names the judges.
        params: what they are.
        images: to judge, of the original model or of an erased one.
        originals: the original model's, from which an erased model's distances are counted.
        progress: show a bar.

    Raises:
        ConfigError: a judge is not configured, or lacks a class that the preset asks for.
        ArtifactError: an image cannot be decoded, its group or parent is not known, or a pair is not whole.
    """
    context = Context(preset, params, images, originals)
    total = sum(each.table.num_rows for each in images)
    tables = [SCORES.empty_table()]
    with context.stack, tqdm(total=total, unit="image", desc="judge", disable=not progress) as bar:
        # All before the first picture is read: a judge that is missing ends the stage at once. And inside the stack's
        # block, which then closes those that are open.
        judges = [OPENERS[name](context) for name in preset.judged.by]
        for each in images:
            for batch in each.batches(BATCH):
                tables.append(_judge_batch(judges, context, each, batch))
                bar.update(len(batch))
    return pa.concat_tables(tables).combine_chunks()


def _judge_batch(judges: Sequence[Judge], context: Context, source: Images, batch: Batch) -> pa.Table:
    pictures = [decode_png(image["png"], image["image_id"], str(source.source)) for image in batch]
    context.clear()
    rows = [row for judge in judges for row in judge(source, batch, pictures)]
    return pa.Table.from_pylist(rows, schema=SCORES)
