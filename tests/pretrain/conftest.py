"""Fixtures of the pipeline's tests: the real parameters, CLIP's merges and tokenizer, drawings made of plain shapes."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from pretrain.config import PARAMS, VOCABULARY, WORK, Params, Vocabulary
from pretrain.data import Icons
from pretrain.icons import fetch_merges
from pretrain.tokenizer import build_tokenizer
from realera.settings.config import load_yaml

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
    published = repository / "data/models/tiny-sd/tokenizer/merges.txt"
    if published.exists():
        return published
    path = tmp_path_factory.mktemp("merges") / "bpe_merges.txt"
    fetch_merges(params.fetch.merges, path)
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


@pytest.fixture(scope="session")
def tiny_style(repository) -> Path:
    folder = repository / "data/models/tiny-style"
    if not folder.is_dir():
        pytest.fail("the embedded model is missing: data/models/tiny-style")
    return folder


# model cards -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def check_generator_card() -> Callable[[Path], None]:
    """Compare every figure of tiny-sd's card with the evaluation.json and words.csv beside it."""
    return _check_generator_card


@pytest.fixture(scope="session")
def check_judge_card() -> Callable[[Path], None]:
    """Compare every figure of tiny-clip's card with the evaluation.json beside it."""
    return _check_judge_card


@pytest.fixture(scope="session")
def check_style_judge_card() -> Callable[[Path], None]:
    """Compare every figure of tiny-style's card with the evaluation.json beside it."""
    return _check_style_judge_card


READINGS = {
    "ten classes, top-1": "classes",
    "ten classes, mean probability": "classes_mean_probability",
    "ten classes, read as nothing": "classes_none",
    "their synonyms, top-1": "synonyms",
    "all concepts, top-1": "vocabulary_top1",
    "all concepts, top-5": "vocabulary_top5",
    "style recognised": "styles",
}


def _check_generator_card(folder: Path) -> None:
    card, summary = _card_and_evaluation(folder)
    readings = _table(card, "reading", "figure", "over")
    assert len(readings) == len(READINGS)
    for (label, found, over), (start, key) in zip(readings, READINGS.items(), strict=True):
        entry = summary[key]
        assert label.startswith(start)
        assert found == _shown(entry)
        assert over == (f"{entry['words']} words" if "words" in entry else f"{entry['images']:,} images")

    worst = re.search(r'classes is "([^"]+)" \((\S+)\), of their synonyms\s+"([^"]+)" \((\S+)\)', card)
    expected = [summary[key]["worst"] for key in ("classes", "synonyms")]
    assert worst
    assert worst.groups() == tuple(text for w in expected for text in (w["word"], f"{w['value']:.2f}"))

    words = pd.read_csv(folder / "words.csv")
    classes = _table(card, "class", "top-1 among the ten", "mean probability", "synonyms (top-1 as the class)")
    assert [tuple(row) for row in classes] == list(_class_rows(words))
    is_class = (words["role"] == "name") & (words["tier"] == "classes")
    assert summary["classes"]["mean"] == pytest.approx(words[is_class]["class_top1"].mean(), abs=1e-4)

    by_style = summary["styles"]["by_style"]
    assert _table(card, "style", "recognised") == [[style, f"{value:.2f}"] for style, value in by_style.items()]

    well = summary["drawn_well"]
    listed = re.search(r"^(\d+) concepts beside the ten classes .*: ([^:]*)\.$", card, re.MULTILINE)
    assert listed
    assert listed.groups() == (str(well["count"]), ", ".join(well["words"]))


def _class_rows(words: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    synonyms = words[words["role"] == "synonym"]
    for row in words[(words["role"] == "name") & (words["tier"] == "classes")].itertuples():
        others = synonyms[synonyms["concept"] == row.word].itertuples()
        listed = ", ".join(f"{other.word} {other.class_top1:.2f}" for other in others)
        interval = f"{row.class_top1:.2f} ({row.low:.2f} to {row.high:.2f})"
        yield row.word, interval, f"{row.class_prob:.2f}", listed


def _check_judge_card(folder: Path) -> None:
    card, report = _card_and_evaluation(folder)
    expected = [[name.replace("_", " "), _shown(value)] for name, value in report.items()]
    assert _table(card, "reading", "figure") == expected


def _check_style_judge_card(folder: Path) -> None:
    card, report = _card_and_evaluation(folder)
    shown = [[name.replace("_", " "), _shown(v)] for name, v in report.items() if name.startswith(("val", "styleless"))]
    assert len(shown) == 5
    assert _table(card, "reading", "figure") == shown
    assert _table(card, "style", "recognised") == [[name, _shown(v)] for name, v in report["by_style"].items()]
    names = list(report["confusion"])
    rows = [[name, *_shares(report["confusion"][name], names)] for name in names]
    assert _table(card, "style", *names) == [*rows, ["emojione", *_shares(report["held_out_read_as"], names)]]
    assert f"({report['temperature']:.2f})" in card


def _shares(shares: dict[str, float], names: list[str]) -> list[str]:
    return [f"{shares[name]:.2f}" for name in names]


def _card_and_evaluation(folder: Path) -> tuple[str, dict]:
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return (folder / "README.md").read_text(encoding="utf-8"), evaluation


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    if not isinstance(value, dict):
        return str(value)
    if "mean" in value:
        return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
    return ", ".join(f"{key}: {_shown(inner)}" for key, inner in value.items())


def _table(card: str, *header: str) -> list[list[str]]:
    """The rows below the table's header."""
    lines = iter(card.splitlines())
    assert f"| {' | '.join(header)} |" in lines, header  # moves `lines` on to the header
    next(lines)
    return [line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
