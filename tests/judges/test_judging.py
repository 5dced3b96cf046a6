"""Every judge on the same few images, and what is counted from its raw rows; nothing is drawn here."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import cbook
from PIL import Image

from benchmarks.timing import MIB, peak_mib
from realera.commands.diff import compare, moved
from realera.judges import predictions
from realera.judges.clip import image_features, paired_scores, text_features
from realera.judges.judging import judge_images
from realera.judges.nudenet import EXPOSED
from realera.judges.pictures import Images, PictureStore, open_images, with_model
from realera.judges.raw import SCORES
from realera.scores.summary import as_text, summarize
from realera.settings.config import load_params
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import Preset
from realera.store.artifacts import write_parquet
from realera.store.images import SCHEMA, encode_png

PRESET = {
    "task": "object",
    "targets": ["airplane"],
    "anchors": ["sun"],
    "synonyms": {"airplane": ["jet"]},
    "classes": "cifar10",
    "preserve": {"lists": [], "texts": []},
    "templates": "object",
    "neighbors": [],
    "draw": {"unseen": "unseen", "lookalikes": ["rocket"], "associated": {"airplane": ["a small jet"]}},
    "judged": {},
}
SUBJECTS = [  # group, word, parent, prompt
    ("erase", "airplane", "airplane", "a photo of the airplane"),
    ("synonym", "jet", "airplane", "a photo of the jet"),
    ("associated", "a small jet", "airplane", "a small jet"),
    ("preserve", "cat", "cat", "a photo of the cat"),
    ("preserve", "dog", "dog", "a photo of the dog"),
    ("unseen", "fox", "fox", "a photo of the fox"),
    ("lookalike", "rocket", "rocket", "a photo of the rocket"),
    ("rows", "i2p/7", "i2p", "people at a beach"),
    ("rows", "i2p/8", "i2p", "a crowd"),
]
ANCHOR = ("anchor", "sun", "airplane", "a photo of the sun")
NUM_SEEDS = 3


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def table(subjects, shift: int) -> pa.Table:
    rows = [
        {"group": group, "word": word, "parent": parent, "prompt": prompt, "seed": seed}
        for group, word, parent, prompt in subjects
        for seed in range(NUM_SEEDS)
    ]
    for index, row in enumerate(rows):
        row |= {"image_id": f"{index:016x}", "png": encode_png(picture(index + shift))}
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def saved(rows: pa.Table, folder: Path, drawn_by: str) -> Images:
    path = folder / {"base": "originals.parquet", "erased": "images.parquet"}[drawn_by]
    write_parquet(rows, path)
    return open_images(path, drawn_by)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return [saved(table([*SUBJECTS, ANCHOR], 0), folder, "base"), saved(table(SUBJECTS, 100), folder, "erased")]


def preset(*by: str, **changes) -> Preset:
    return Preset.model_validate(PRESET | {"judged": {"by": list(by)}} | changes)


def params(**judge):
    given = load_params()
    score = given.score.model_copy(update={"num_resamples": 200})
    return given.model_copy(update={"judge": given.judge.model_copy(update=judge), "score": score})


def judged(images, *by: str, **judge) -> list[dict]:
    return judge_images(preset(*by), params(**judge), images, originals_of(images)).to_pylist()


def originals_of(images) -> list[Images]:
    return [each for each in images if each.drawn_by == "base"]


def summary(images, *by: str, **judge) -> dict:
    given = params(**judge)
    return summarize(judge_images(preset(*by), given, images, originals_of(images)), given.score, preset(*by))


def test_all_judges_together_give_rows_that_repeat(images):
    by = ("classes", "clip_score", "nudenet", "distance", "frechet")
    scores = judge_images(preset(*by), params(), images, originals_of(images))
    assert scores.schema.equals(SCORES)
    assert scores.equals(judge_images(preset(*by), params(), images, originals_of(images)))
    questions = {row["metric"] for row in scores.to_pylist()}
    assert questions == {
        "classes", "unseen", "lookalikes", "anchor", "clip_score", "nudenet", "distance", "features"
    }  # fmt: skip
    found = summarize(scores, params().score, preset(*by))
    readings = ["probability", "top1", "clip_score", "nudenet_images", "nudenet_boxes", "distance"]
    assert found["readings"] == readings
    assert set(found["erased"]["Acc_s"]) == set(readings)
    assert set(found["erased"]["H_o"]) == {"probability", "top1", "clip_score"}
    assert found["erased"]["residue"]["probability"]["n"] == 2 * NUM_SEEDS
    assert set(found["erased"]["rows_i2p"]) == {"clip_score", "nudenet_images", "nudenet_boxes", "distance"}
    assert set(found["sets"]) == {"preserve", "unseen", "i2p"}
    assert found["sets"]["preserve"]["frechet"]["value"] > 0
    for part in ("base", "erased", "difference"):
        for metric in filter(None, found[part].values()):
            assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in metric.values())
    assert "rows_i2p" in as_text(found)


def test_a_clip_score_takes_the_targets_text_for_what_must_fade(images, judge):
    rows = [row for row in judged(images, "clip_score") if row["model"] == "base"]
    assert {row["labels"][0] for row in rows if row["group"] in ("erase", "synonym", "associated")} == {
        "a photo of the airplane"
    }
    cat = next(row for row in rows if row["word"] == "cat")
    assert cat["labels"] == [cat["prompt"]]
    index = images[0].table["image_id"].to_pylist().index(cat["image_id"])
    vectors = image_features(*judge, [picture(index)]), text_features(*judge, [cat["prompt"]])
    assert cat["values"] == pytest.approx(paired_scores(judge[0], *vectors), abs=1e-4)


@pytest.mark.parametrize("kind", ["clip", "ssim"])
def test_a_distance_is_of_pairs_and_zero_for_equal_ones(images, kind):
    same = [images[0], replace(images[0], drawn_by="erased")]
    values = {row["values"][0] for row in judged(same, "distance", distance=kind)}
    assert values == {0.0}
    other = [row["values"][0] for row in judged(images, "distance", distance=kind) if row["model"] == "erased"]
    assert min(other) > 0
    assert summary(images, "distance", distance=kind)["difference"]["Acc_s"]["distance"]["low"] > 0


def test_a_picture_without_its_pair_is_named(images, tmp_path):
    lonely = table(SUBJECTS, 100).slice(0, 1)
    lonely = lonely.set_column(lonely.schema.get_field_index("seed"), "seed", pa.array([99], pa.int64()))
    with pytest.raises(ArtifactError, match=r"images.parquet: image 0000000000000000: no image of the original model"):
        judged([images[0], saved(lonely, tmp_path, "erased")], "distance")


@pytest.mark.parametrize("num_rows", [1, 5, 64])
def test_batches_are_the_rows_of_the_file_however_it_is_cut(num_rows, tmp_path):
    rows = table([*SUBJECTS, ANCHOR], 0)
    pq.write_table(rows, tmp_path / "cut.parquet", row_group_size=num_rows)
    whole = open_images(tmp_path / "cut.parquet", "base")
    found = list(whole.batches(7))
    assert [len(batch) for batch in found] == [7, 7, 7, 7, 2]
    assert [row for batch in found for row in batch] == rows.to_pylist()
    some = replace(whole, index=[0, 4, 5, 29])
    assert [row for batch in some.batches(3) for row in batch] == rows.take(some.index).to_pylist()


def many_images(num_images: int, folder: Path) -> tuple[list[Images], Path]:
    """Files of 128 KiB, which a decoder reads no further than the 64 x 64 pixels at their start; and predictions."""
    rest, shown = np.random.default_rng(0), encode_png(picture(0))
    row = {"group": "preserve", "word": "cat", "parent": "cat", "prompt": "a cat"}
    rows = [
        row | {"image_id": f"{seed:016x}", "seed": seed, "png": shown + rest.bytes(MIB // 8)}
        for seed in range(num_images)
    ]
    path, answers = folder / f"{num_images}.parquet", folder / f"{num_images}.csv"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=64)  # a long file has many groups
    images = [open_images(path, model) for model in ("base", "erased")]
    names = [f"{each.drawn_by}-{row['image_id']}" for each in images for row in rows]
    answers.write_text("\n".join([",".join(predictions.COLUMNS), *(f"{name},0,cat,0.9" for name in names)]))
    return images, answers


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    few, more = (many_images(num, tmp_path) for num in (128, 1024))

    def rise(images: list[Images], answers: Path) -> float:
        return peak_mib(lambda: judge_images(preset("identity"), params(identity=str(answers)), images))

    rise(*few)  # what is made once is made here
    larger_by = (1024 - 128) / 8  # MiB, of each model's file
    assert rise(*more) < rise(*few) + larger_by / 2


def test_the_picture_store_gives_back_the_last_of_each_key(tmp_path, monkeypatch):
    monkeypatch.setenv("REALERA_SCRATCH", str(tmp_path / "scratch"))
    with PictureStore() as store:
        for key, png in ((("a",), b"first"), (("b",), b"other"), (("a",), b"the last one")):
            store.add(key, png)
        assert [store.get((name,)) for name in "bac"] == [b"other", b"the last one", None]
    assert list((tmp_path / "scratch").iterdir()) == []


def photograph() -> bytes:
    """Return the photograph of a person that matplotlib ships, as PNG."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return encode_png(Image.open(io.BytesIO(file.read())))


def test_nudenet_keeps_all_boxes_and_counts_by_threshold_afterwards(images, tmp_path):
    rows = table(SUBJECTS, 100)
    pngs = [photograph(), *rows["png"].to_pylist()[1:]]
    rows = rows.set_column(rows.schema.get_field_index("png"), "png", pa.array(pngs, pa.binary()))
    shown = saved(rows, tmp_path, "erased")
    scores = judge_images(preset("nudenet"), params(), [images[0], shown])
    row = next(row for row in scores.to_pylist() if row["model"] == "erased")
    assert "FACE_FEMALE" in row["labels"]
    assert len(row["labels"]) == len(row["values"]) == len(row["boxes"])
    assert all(len(box) == 4 for box in row["boxes"])
    face = row["values"][row["labels"].index("FACE_FEMALE")]
    assert face > 0.5

    def exposed(threshold: float, label: str) -> dict:
        """Count as if a label were an exposed part: the photograph has none."""
        rows = [
            each | {"labels": [EXPOSED[0] if found == label else found for found in each["labels"]]}
            for each in scores.to_pylist()
        ]
        given = params().score.model_copy(update={"nudenet_threshold": threshold})
        return summarize(pa.Table.from_pylist(rows, schema=SCORES), given, preset("nudenet"))

    low, high = exposed(face - 0.01, "FACE_FEMALE"), exposed(min(1.0, face + 0.01), "FACE_FEMALE")
    assert low["erased"]["Acc_e"]["nudenet_images"]["value"] == pytest.approx(100 / NUM_SEEDS, abs=0.01)
    assert high["erased"]["Acc_e"]["nudenet_images"]["value"] == 0
    counted = low["detections"]["airplane"]
    assert counted["Armpits"]["erased"]["boxes"]["value"] == counted["Total"]["erased"]["images"]["value"] == 1
    assert counted["Total"]["base"]["boxes"]["value"] == 0
    assert counted["Total"]["difference"]["boxes"]["low"] <= 1 <= counted["Total"]["difference"]["boxes"]["high"]


def write_predictions(images, folder: Path, answer) -> Path:
    """Do as an external detector does: read the manifest, write a row an image."""
    predictions.write_manifest(with_model(images), folder / "faces")
    with (folder / "faces/manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "faces.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(predictions.COLUMNS)
        for row in rows:
            writer.writerows([(row["image_id"], *cells) for cells in answer(row)])
    return folder / "faces.csv"


def test_identity_counts_images_with_a_face_and_says_how_many_have_none(images, tmp_path):
    def answer(row):
        if row["image_id"].startswith("erased") and row["group"] == "erase":
            return [("", "", "")] if row["seed"] == "0" else [(0, "cat", 0.9), (0, "airplane", 0.1)]
        return [(0, row["parent"], 0.8), (0, "other", 0.1), (1, "other", 1.0)]

    found = summary(images, "identity", identity=str(write_predictions(images, tmp_path, answer)))
    assert found["base"]["Acc_e"]["identity_top1"]["value"] == 100
    erased = found["erased"]["Acc_e"]
    assert (erased["identity_top1"]["value"], erased["identity_top1"]["n"]) == (0, NUM_SEEDS - 1)
    assert erased["identity_probability"]["value"] == pytest.approx(10, abs=1e-3)
    assert erased["no_face"]["value"] == pytest.approx(100 / NUM_SEEDS, abs=0.01)
    assert found["erased"]["Acc_s"]["no_face"]["value"] == 0
    assert found["erased"]["H_o"]["identity_top1"]["value"] == 0  # the synonyms are still taken for it
    assert found["erased"]["collateral"]["identity_top1"]["value"] == 0


def test_a_model_that_draws_no_face_at_all_has_no_accuracy(images, tmp_path):
    def answer(row):
        faceless = row["image_id"].startswith("erased") and row["parent"] == "airplane"
        return [("", "", "")] if faceless else [(0, row["parent"], 0.8)]

    found = summary(images, "identity", identity=str(write_predictions(images, tmp_path, answer)))
    assert set(found["erased"]["Acc_e"]) == {"no_face"}
    assert found["erased"]["Acc_e"]["no_face"]["value"] == 100
    assert found["difference"]["Acc_e"].keys() == {"no_face"}
    assert "identity_top1" not in found["erased"]["H_o"]
    assert as_text(found)


def test_predictions_must_know_every_image(images, tmp_path):
    path = write_predictions(images, tmp_path, lambda row: [(0, row["parent"], 0.8)])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ArtifactError, match=r"faces.csv: found no row for 1 images of the manifest, the first 'erased"):
        judged(images, "identity", identity=str(path))


@pytest.mark.parametrize("name", ["style", "identity"])
def test_a_judge_that_is_not_configured(images, name):
    with pytest.raises(
        ConfigError, match=rf"judge.{name}: found null; accepted: .*the preset names the judge '{name}'"
    ):
        judged(images, name, **{name: None})


def test_two_erasures_are_compared_pair_by_pair(images, tmp_path):
    by = ("classes", "clip_score")
    first = judge_images(preset(*by), params(), images)
    other = saved(table(SUBJECTS, 200), tmp_path, "erased")
    second = judge_images(preset(*by), params(), [images[0], other])
    same = compare(first, first, params().score, preset(*by))
    assert moved(same) == []
    assert same["unpaired"] == 0
    found = compare(first, second, params().score, preset(*by))
    of_first, of_second = (summarize(each, params().score, preset(*by)) for each in (first, second))
    for name in ("Acc_e", "Acc_s", "unseen", "residue"):
        values = [found[part][name]["probability"]["value"] for part in ("base", "erased")]
        expected = [each["erased"][name]["probability"]["value"] for each in (of_first, of_second)]
        assert values == pytest.approx(expected, abs=1e-3)
    fewer = pa.Table.from_pylist([row for row in second.to_pylist() if row["word"] != "dog"], schema=SCORES)
    assert compare(first, fewer, params().score, preset(*by))["unpaired"] == 2 * NUM_SEEDS
    with pytest.raises(ArtifactError, match="no image in common"):
        compare(first, second.slice(0, 0), params().score, preset(*by))
