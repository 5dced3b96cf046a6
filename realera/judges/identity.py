"""Judge identity: whose face it is, by an image-classification checkpoint or an external detector's CSV."""

from collections.abc import Iterator, Sequence
from typing import get_args

from PIL import Image

from realera.judges import predictions
from realera.judges.classifier import open_named
from realera.judges.context import Batch, Context, Judge
from realera.judges.pictures import Images, named
from realera.judges.raw import raw_row
from realera.settings.config import MethodName


def open_identity(context: Context) -> Judge:
    """Open `judge.identity`.

    Raises:
        ArtifactError: the CSV is not readable, or lacks an image.
    """
    place = context.params.judge.identity
    if place is None or not place.endswith(".csv"):
        return open_named(context, "identity", place)
    ids = {named(each, image_id) for each in context.images for image_id in each.table["image_id"].to_pylist()}
    others = {"base", *get_args(MethodName)} - {each.name for each in context.images}
    found = predictions.read_predictions(place, ids, others)

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        for image in batch:
            faces = found[named(source, image["image_id"])]
            # The paper counts the first face alone.
            first = faces[0] if faces else []
            yield raw_row(
                image, source.drawn_by, "identity", [label for label, _ in first], [value for _, value in first]
            )

    return judge
