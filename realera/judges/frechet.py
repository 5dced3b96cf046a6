"""Judge frechet: image features of what must stay, for distances between sets of images.

| features | of an image |
|---|---|
| clip | the CLIP judge's unit vector |
| inception | the 2048 features of Inception v3 by which papers give FID and KID |

Inception is that of torch-fidelity (extra `fid`), as in torchmetrics' FID; packages are pinned by
their versions and the weights by their SHA-256. clean-fid resizes images in another way: its
figures are close, not equal.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from realera.judges.context import Batch, Context, Judge
from realera.judges.distance import check_torchvision
from realera.judges.pictures import Images
from realera.judges.raw import KEPT_GROUPS, raw_row
from realera.settings.errors import ArtifactError, ConfigError
from realera.store.artifacts import existing_file, file_sha256

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""The weights, of release v0.2.0 of torch-fidelity on GitHub."""

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def open_frechet(context: Context) -> Judge:
    """Open the judge whose features `realera.scores.frechet` compares."""
    weights = context.params.judge.inception

    def judge(source: Images, batch: Batch, pictures: Sequence[Image.Image]) -> Iterator[dict]:
        kept = [index for index, image in enumerate(batch) if image["group"] in KEPT_GROUPS]
        if weights is None:
            # Of the whole batch, though few may be kept: other judges want them too, and they are computed once.
            vectors = context.features(pictures).cpu().numpy()[kept]
        else:
            vectors = inception_features([pictures[index] for index in kept], weights)
        for index, vector_d in zip(kept, vectors, strict=True):
            yield raw_row(batch[index], source.drawn_by, "features", [], vector_d.tolist())

    return judge


def inception_features(images: Sequence[Image.Image], weights: str | Path) -> np.ndarray:
    """Return Inception's features of images of any size, float64 [num_images, 2048].

    Args:
        images: one is seen at a time.
        weights: the file INCEPTION_FILE; nothing is fetched.

    Raises:
        ConfigError: what it needs is not installed.
        ArtifactError: the weights are missing, or not those of INCEPTION_SHA256.
    """
    check_torchvision("features inception")
    network = _open_inception(weights)
    return np.concatenate([np.empty((0, 2048)), *(_inception_features(network, image) for image in images)])


def _open_inception(weights: str | Path) -> torch.nn.Module:
    path = existing_file(weights)
    if (found := file_sha256(path)) != INCEPTION_SHA256:  # before it is read: the file is a pickle
        raise ArtifactError(f"{path}: found SHA-256 {found}; accepted: {INCEPTION_SHA256}, of {INCEPTION_FILE}")
    try:
        from torchmetrics.image.fid import NoTrainInceptionV3

        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path))
    except ImportError as error:
        raise ConfigError(f"features inception: {error}; accepted: what pip install 'realera[fid]' brings") from error


@torch.no_grad()
def _inception_features(network: torch.nn.Module, image: Image.Image) -> np.ndarray:
    """Return [1, 2048]; the network resizes the image itself."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
    return network(pixels).double().numpy()
