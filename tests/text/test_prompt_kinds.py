"""The kinds of prompt files that users have: a file of each with the row that tripped."""

import csv
import io

import pytest

from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import PROMPT_FILES
from realera.store.artifacts import read_json
from realera.text.prompt_files import PromptRow, blank_prompts, read_prompt_file
from realera.text.prompt_imports import add, skipped_file
from tests.text.test_prompt_files import DATA

FOUND = {  # file -> kind, name in presets
    "i2p_blank.csv": ("i2p", "i2p"),
    "i2p_null.csv": ("i2p", "i2p"),
    "i2p.csv": ("i2p", "i2p"),
    "coco.csv": ("coco", "coco"),
    "captions.csv": ("coco", "captions"),
    "unseeded.csv": ("coco", "unseeded"),
    "celebrities.csv": ("list", "celebrities"),
    "names.csv": ("names", "names"),
    "pairs.csv": ("pairs", "pairs"),
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / PROMPT_FILES


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.filterwarnings("ignore:.*blank prompt")
def test_the_columns_tell_the_kind(folder, name):
    added = add(DATA / name, target_folder=folder)
    assert (added.file.kind, added.path.stem) == FOUND[name]
    assert added.path.read_bytes() == (DATA / name).read_bytes()
    assert add(DATA / name, FOUND[name][0], folder, name="again").file.rows == added.file.rows
    assert sorted(path.name for path in folder.iterdir()) == sorted([f"{FOUND[name][1]}.csv", "again.csv"])


@pytest.mark.parametrize("kind", ["i2p", "coco", "list", "names", "pairs"])
@pytest.mark.parametrize("name", ["i2p.csv", "captions.csv", "celebrities.csv", "names.csv", "pairs.csv"])
def test_another_kind_than_the_columns_is_refused(folder, name, kind):
    if kind == FOUND[name][0]:
        return
    with pytest.raises(ArtifactError, match=rf"{name}, line 1: found (the )?columns .*; accepted: "):
        add(DATA / name, kind, folder)
    assert not folder.exists()


# --- I2P's two public copies ---


def test_a_blank_prompt_is_a_row_like_any_other():
    blank, null = (read_prompt_file(DATA / name) for name in ("i2p_blank.csv", "i2p_null.csv"))
    assert [row.prompt for row in blank] == ["a harbor at night", "", "NA", "nan", "None"]
    assert [row.prompt for row in null] == ["a harbor at night", "Null", "NA", "nan", "None"]
    assert [(row.seed, row.guidance_scale, row.width) for row in blank] == [
        (row.seed, row.guidance_scale, row.width) for row in null
    ]
    assert blank[1].case == "2260"


def test_a_blank_prompt_is_named_once_with_the_word_that_is_lost(folder):
    with pytest.warns(UserWarning, match="blank prompt") as caught:
        add(DATA / "i2p_blank.csv", target_folder=folder)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "1 blank prompt, drawn as it stands: case 2260 (line 3); " in text
    assert "in I2P's other public copy its prompt is the word 'Null'" in text


def test_the_copy_with_the_word_raises_no_warning(folder, recwarn):
    add(DATA / "i2p_null.csv", target_folder=folder)
    assert not recwarn.list


def test_other_blank_prompts_may_have_been_such_a_word():
    rows = [PromptRow(str(number), " ", number, line=number + 2) for number in range(7)]
    text = blank_prompts(rows)
    assert text.startswith("7 blank prompts, drawn as they stand: cases 0 (line 2), 1 (line 3)")
    assert text.endswith("...; a CSV reader may have taken a word such as Null, None, NA or nan for a missing value")
    assert blank_prompts([PromptRow("0", "null", 4261564198, categories=("hate",))]) == ""


# --- the other kinds ---


def test_captions_have_no_seeds():
    rows = read_prompt_file(DATA / "captions.csv")
    assert rows == [
        PromptRow("0", "A bird with a clock as the front wheel."),
        PromptRow("1", "A clock, with wings."),
        PromptRow("2", "NA"),
    ]
    assert [row.number for row in rows] == [0, 1, 2]


def test_without_seeds_it_is_said_so(folder):
    line = add(DATA / "unseeded.csv", target_folder=folder).line()
    assert line.endswith("unseeded.csv: 3 prompts (coco); no column of seeds: they count up from generate.seed")
    assert "no column" not in add(DATA / "coco.csv", target_folder=folder).line()


def test_a_list_says_what_is_judged():
    rows = read_prompt_file(DATA / "celebrities.csv")
    assert [(row.case, row.prompt, row.seed, row.concept) for row in rows] == [
        ("1", "A photo of the airplane", 1, "airplane"),
        ("2", "An airplane, at an event", 2, "Airplane"),
        ("3", "A sketch of a cat", 1, "cat"),
        ("4", "A sketch of a gyrocopter", 2, "gyrocopter"),
    ]


def test_names_wait_for_the_preset_s_prompt():
    assert read_prompt_file(DATA / "names.csv") == [
        PromptRow("0", None, concept="airplane"),
        PromptRow("1", None, concept="cat"),
        PromptRow("2", None, concept="null"),
    ]


def test_a_pair_is_two_images_of_one_number():
    rows = read_prompt_file(DATA / "pairs.csv")
    assert [(row.case, row.part, row.number) for row in rows] == [
        ("0", "sensitive", 0), ("0", "normal", 0), ("1", "sensitive", 1), ("1", "normal", 1),
    ]  # fmt: skip
    assert rows[0].prompt == "an airplane, over the sea"
    assert rows[1].prompt == "a bird, over the sea"
    assert len(read_prompt_file(DATA / "pairs.csv", limit=1)) == 2


@pytest.mark.parametrize(
    ("header", "row", "prompt", "seed"),
    [
        ("prompt,text,seed", "a,b,1", "a", 1),
        ("sensitive prompt,seed", "a,1", "a", 1),
        ("prompt,seed,evaluation_seed", "a,1,2", "a", 2),
        ("id,case_number,prompt", "9,4,a", "a", None),
    ],
)
def test_of_two_columns_the_stronger_counts(tmp_path, header, row, prompt, seed):
    (tmp_path / "prompts.csv").write_text(f"{header}\n{row}\n")
    (found,) = read_prompt_file(tmp_path / "prompts.csv")
    assert (found.prompt, found.seed) == (prompt, seed)
    assert found.case in ("0", "4")


@pytest.mark.parametrize("name", ["names.csv", "celebrities.csv"])
def test_a_blank_name_is_a_bad_row(tmp_path, name):
    (tmp_path / name).write_bytes((DATA / name).read_bytes().replace(b"cat", b" ", 1) if name == "names.csv" else
                                  (DATA / name).read_bytes().replace(b",cat,", b",,"))  # fmt: skip
    with pytest.raises(ArtifactError, match=r"column concept: found .*; accepted: what the image is judged as"):
        read_prompt_file(tmp_path / name)


# --- bad rows ---


def test_bad_rows_are_left_out_if_asked_and_counted(folder):
    with pytest.raises(ArtifactError, match=r"line 3: found 5 cells \(quotes may be .*--skip-bad-rows leaves such"):
        add(DATA / "ragged.csv", target_folder=folder)
    assert not folder.exists()
    added = add(DATA / "ragged.csv", target_folder=folder, skip_bad_rows=True)
    assert [row.prompt for row in read_prompt_file(added.path)] == ["A bird.", "A dog.", "A truck, old."]
    assert [row.number for row in read_prompt_file(added.path)] == [row.number for row in added.file.rows] == [0, 1, 2]
    lines = (DATA / "ragged.csv").read_bytes().splitlines(keepends=True)
    assert added.path.read_bytes() == b"".join(lines[index] for index in (0, 1, 3, 6))
    reasons = read_json(skipped_file(added.path))["rows"]
    assert [reason.split(":")[0] for reason in reasons] == ["line 3", "line 5", "line 6"]
    assert "3 rows left out, the first: " in added.line()


def test_a_prompt_over_lines_is_left_out_whole(folder, tmp_path):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["prompt", "seed"], ["two\r\nlines", "x"], ["a\ncat", "1"], ["\r\r", ""], ["dog", "2"]])
    (tmp_path / "lines.csv").write_bytes(text.getvalue().encode())
    added = add(tmp_path / "lines.csv", target_folder=folder, skip_bad_rows=True)
    assert added.path.read_bytes() == b'prompt,seed\r\n"a\ncat",1\r\ndog,2\r\n'
    assert len(added.file.bad) == 2


def test_a_file_without_bad_rows_takes_the_note_away_and_the_copy_keeps_it(folder, tmp_path):
    path = add(DATA / "ragged.csv", target_folder=folder, skip_bad_rows=True).path
    add(path, target_folder=folder)
    assert skipped_file(path).exists()
    (tmp_path / "ragged.csv").write_bytes(path.read_bytes())
    add(tmp_path / "ragged.csv", target_folder=folder)
    assert not skipped_file(path).exists()


def test_nothing_but_bad_rows(folder, tmp_path):
    (tmp_path / "bad.csv").write_text("prompt,seed\na,x\nb,y\n")
    with pytest.raises(ArtifactError, match="found 2 rows, none of which can be drawn"):
        add(tmp_path / "bad.csv", target_folder=folder, skip_bad_rows=True)
    assert not folder.exists()


def test_a_file_whose_name_is_none_for_presets(folder, tmp_path):
    (tmp_path / "My Captions (2).csv").write_bytes((DATA / "captions.csv").read_bytes())
    assert add(tmp_path / "My Captions (2).csv", target_folder=folder).path.name == "my-captions-2.csv"
    (tmp_path / "___.csv").write_bytes((DATA / "captions.csv").read_bytes())
    with pytest.raises(ConfigError, match="accepted: --name with small letters"):
        add(tmp_path / "___.csv", target_folder=folder)
