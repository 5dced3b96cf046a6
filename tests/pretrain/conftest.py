"""Fixtures of the pipeline's tests: the real parameters, CLIP's merges and tokenizer, drawings made of plain shapes."""

import json
from pathlib import Path

import pytest
import torch

from pretrain.config import PARAMS, VOCABULARY, WORK, Params, Vocabulary
from pretrain.data import Icons
from pretrain.icons import fetch_merges
from pretrain.tokenizer import build_tokenizer
from realera.config import load_yaml

SIZE = 32


@pytest.fixture(scope="session")
def params(repository) -> Params:
    return load_yaml(repository / PARAMS, Params)


@pytest.fixture(scope="session")
def vocabulary(repository) -> Vocabulary:
    found = load_yaml(repository / VOCABULARY, Vocabulary)
    found.check()
    return found


@pytest.fixture(scope="session")
def merges_file(repository, params, tmp_path_factory) -> Path:
    """CLIP's merges: what stage fetch left, else those in the embedded model, else downloaded as fetch does it."""
    fetched = repository / WORK / "packages/bpe_merges.txt"
    if fetched.exists():
        return fetched
    path = tmp_path_factory.mktemp("merges") / "bpe_merges.txt"
    published = repository / "data/models/tiny-sd/tokenizer/tokenizer.json"
    if not published.exists():
        fetch_merges(params.fetch.merges, path)
        return path
    merges = json.loads(published.read_text(encoding="utf-8"))["model"]["merges"]
    lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    path.write_text("\n".join(["a header", *lines, ""]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(merges_file):
    return build_tokenizer(merges_file)


@pytest.fixture(scope="session")
def icons() -> Icons:
    """Discs in as many colors as there are icons: 3 concepts x 4 vendors x 10."""
    rows = [
        (f"{vendor}/{concept}-{i}", concept, tier, vendor)
        for concept, tier in [("cat", "classes"), ("house", "core"), ("spoon", "rest")]
        for vendor in ("noto", "blob", "flat", "firefox")
        for i in range(10)
    ]
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    disc = (line[:, None] ** 2 + line[None, :] ** 2 < (SIZE / 3) ** 2).to(torch.uint8) * 255
    colors = torch.randint(0, 200, (len(rows), 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rgb = colors[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    rgba = torch.cat([rgb, disc.expand(len(rows), 1, SIZE, SIZE)], dim=1).contiguous()
    return Icons(rgba, *(tuple(column) for column in zip(*rows, strict=True)))


@pytest.fixture
def seeded():
    """`seeded(3)`: a new generator, always the same for the same seed."""

    def make(seed: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    return make
