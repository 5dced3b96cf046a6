import contextlib
import csv
import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from realera.judges.predictions import (
    MANIFEST,
    MANIFEST_COLUMNS,
    read_predictions,
    write_manifest,
)
from realera.settings.errors import ArtifactError
from realera.store.images import SCHEMA, encode_png

HEADER = "image_id,face,label,probability\n"
GOOD = HEADER + "a,1,Nobody,0.4\na,0,Tom Cruise,0.06\na,0,Tom Hanks,0.91\nb,,,\n"


def table(ids=("a", "b"), prompt="A portrait of Tom Hanks", seed=2**32 - 1):
    generator = np.random.default_rng(0)
    rows = [
        {
            "image_id": name,
            "group": "erase",
            "word": "Tom Hanks",
            "parent": "Tom Hanks",
            "prompt": prompt,
            "seed": seed,
            "png": encode_png(Image.fromarray(generator.integers(0, 255, (8, 8, 3), dtype=np.uint8))),
        }
        for name in ids
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@pytest.fixture
def read(tmp_path):
    def read(content, ids=("a", "b")):
        path = tmp_path / "predictions.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_predictions(path, ids)

    return read


def test_faces_in_order_and_labels_by_probability(read):
    assert read(GOOD) == {"a": [[("Tom Hanks", 0.91), ("Tom Cruise", 0.06)], [("Nobody", 0.4)]], "b": []}


def test_what_files_of_other_systems_look_like(read):
    expected = read(GOOD)
    assert read(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == expected
    assert read(GOOD.replace("\n", "\n\n")) == expected
    assert read("x," + GOOD.replace("\n", "\nx,")[: -len("x,")]) == expected  # a column that is not ours
    quoted = 'face,label,image_id,probability\n0,"Downey, Robert ""Jr""\nand more",a,1\n,,b,\n'
    assert read(quoted)["a"] == [[('Downey, Robert "Jr"\nand more', 1.0)]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found an empty file; accepted: CSV with the columns image_id, face"),
        ("\n \n", "found an empty file"),
        (HEADER, "found no row for 2 images of the manifest, the first 'a'"),
        (HEADER + "b,,,\n", "found no row for 1 images of the manifest, the first 'a'"),
        ("image_id,face,label\na,,\n", r"no column \['probability'\]; it has \['image_id', 'face', 'label'\]"),
        ("image_id,face,label,probability,face\na,,,,\n", "found the column 'face' twice"),
        (GOOD + "c,,,\n", "line 6: image_id: found 'c'; accepted: images of the manifest"),
        (GOOD + ",,,\n", "line 6: image_id: found ''"),
        (GOOD + "a,0,Tom Hanks,0.91\n", "line 6: label: found 'Tom Hanks'; accepted: each label once for face 0"),
        (GOOD + "b,,,\n", "line 6: image_id: found 'b'; accepted: one row for an image without a face"),
        (GOOD + "a,,,\n", "line 6: image_id: found 'a'; accepted: one row for an image without a face"),
        (GOOD + "b,0,Tom Hanks,0.5\n", "line 6: image_id: found 'b'; accepted: no face in a row before"),
        (GOOD + "a,3,Nobody,0.5\n", "image 'a': found face 3 but no face 2"),
        (GOOD + "a,2,Nobody\n", "line 6: row: found '3 cells'; accepted: 4"),
        (GOOD + "a,2,Nobody,0.5,6\n", "line 6: row: found '5 cells'"),
        (GOOD + 'a,2,"Nobody,0.5\n', "not readable as CSV"),
        (GOOD + "a,2,,0.5\n", "line 6: label: found ''; accepted: face, label and probability all filled"),
        (GOOD + "a,,Nobody,0.5\n", "line 6: face: found ''"),
        (GOOD + "a,2,Nobody,\n", "line 6: probability: found ''"),
        (b"\xff\xfe" + GOOD.encode("utf-16-le"), "line 1: found bytes that are not UTF-8"),
        (GOOD.encode() + b"a,2,Andr\xe9,0.5\n", "line 6: found bytes that are not UTF-8; accepted: UTF-8"),
        *[(GOOD + f"a,2,Nobody,{bad}\n", f"line 6: probability: found '{bad}'; accepted: 0 to 1") for bad in
          ("1.01", "-0.1", "nan", "inf", "much")],
        *[(GOOD + f"a,{bad},Nobody,0.5\n", f"line 6: face: found '{bad}'; accepted: 0, 1") for bad in
          ("-1", "1.0", "x", "²", "9" * 5000)],
    ],
)  # fmt: skip
def test_bad_file(read, content, message):
    with pytest.raises(ArtifactError, match=message) as caught:
        read(content)
    assert "predictions.csv" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match="a file is needed here, found nothing"):
        read_predictions(tmp_path / "predictions.csv", ["a"])
    with pytest.raises(ArtifactError, match="found a folder"):
        read_predictions(tmp_path, ["a"])


@given(st.one_of(st.binary(max_size=80), st.text(alphabet='ab01,.\n\r" é\0', max_size=60).map(lambda t: HEADER + t)))
def test_hostile_bytes_are_an_error_or_complete(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("hostile") / "predictions.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.suppress(ArtifactError):  # hypothesis reports any other exception
        assert set(read_predictions(path, ("a", "b"))) == {"a", "b"}


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
faces = st.dictionaries(names, st.floats(0, 1), min_size=1, max_size=3)


@given(st.dictionaries(names, st.lists(faces, max_size=3), min_size=1, max_size=4), st.randoms())
def test_round_trip_in_any_order_of_rows(tmp_path_factory, images, random):
    rows = [
        [image, str(index), label, repr(probability)]
        for image, found in images.items()
        for index, face in enumerate(found)
        for label, probability in face.items()
    ]
    rows += [[image, "", "", ""] for image, found in images.items() if not found]
    random.shuffle(rows)
    text = io.StringIO()
    csv.writer(text).writerows([HEADER.strip().split(","), *rows])
    path = tmp_path_factory.mktemp("round") / "predictions.csv"
    path.write_bytes(text.getvalue().encode())
    read = read_predictions(path, list(images))
    assert {name: [dict(face) for face in found] for name, found in read.items()} == images
    for face in (face for found in read.values() for face in found):
        values = [value for _, value in face]
        assert values == sorted(values, reverse=True)


def test_manifest(tmp_path):
    images = table(prompt='A portrait of "Tom",\nHanks / é')
    write_manifest(images, tmp_path / "detector")
    content = (tmp_path / "detector" / MANIFEST).read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))
    assert tuple(rows[0]) == MANIFEST_COLUMNS
    for row, image in zip(rows, images.to_pylist(), strict=True):
        assert {name: row[name] for name in ("image_id", "group", "word", "parent", "prompt")} == {
            name: image[name] for name in ("image_id", "group", "word", "parent", "prompt")
        }
        assert int(row["seed"]) == image["seed"]
        stored = (tmp_path / "detector" / row["file"]).read_bytes()
        assert stored == image["png"]
        assert row["sha256"] == hashlib.sha256(stored).hexdigest()


def test_manifest_again_gives_the_same_bytes_and_no_old_images(tmp_path):
    folder = tmp_path / "detector"
    write_manifest(table(ids=("a", "b", "c")), folder)
    write_manifest(table(), folder)
    first = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_manifest(table(), folder)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    assert len(first) == 3


def test_an_image_id_is_no_path(tmp_path):
    write_manifest(table(ids=("../../a", "/b")), tmp_path / "in" / "detector")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bad_images(tmp_path):
    folder = tmp_path / "detector"
    with pytest.raises(ArtifactError, match="no images"):
        write_manifest(table().slice(0, 0), folder)
    with pytest.raises(ArtifactError, match="image_id: found 'a' twice"):
        write_manifest(table(ids=("a", "b", "a")), folder)
    column = table().schema.get_field_index("png")
    corrupt = table().set_column(column, "png", pa.array([table()["png"][0].as_py(), b"not a PNG"], pa.binary()))
    with pytest.raises(ArtifactError, match="image b: not a readable image"):
        write_manifest(corrupt, folder)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"found 'thesis\.txt'; accepted: a new folder"):
        write_manifest(table(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
