"""Prompt files: what the published schemas hold, what users may hand over, and what is added to the project."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from realera.settings.config import MAX_SEED
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import PROMPT_FILES, prompt_file
from realera.store.artifacts import file_sha256
from realera.text.prompt_files import PromptRow, read_prompt_file
from realera.text.prompt_imports import add

DATA = Path(__file__).resolve().parents[1] / "data"
FILES = ("i2p.csv", "i2p_dataset.csv", "coco.csv", "coco_sizes.csv")
COLUMNS = ("case_number", "prompt", "categories", "sd_seed", "sd_guidance_scale", "sd_image_width", "sd_image_height")
GOOD = {
    "case_number": "7",
    "prompt": "a photo of the airplane",
    "categories": "hate, violence",
    "evaluation_seed": "4290749014",
    "evaluation_guidance": "7",
    "sd_image_width": "512",
    "sd_image_height": "768",
}


def as_csv(*rows):
    """Return a file's bytes from rows that are dictionaries."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def from_rows(rows):
    cells = [
        (row.case, row.prompt, ", ".join(row.categories), row.seed, row.guidance_scale, row.width, row.height)
        for row in rows
    ]
    return as_csv(*[dict(zip(COLUMNS, values, strict=True)) for values in cells])


def read(folder, content):
    path = folder / "prompts.csv"
    path.write_bytes(content)
    return read_prompt_file(path)


def fails(folder, content, *parts):
    """The message is one line that begins with the file and holds `parts`."""
    with pytest.raises(ArtifactError) as caught:
        read(folder, content)
    message = str(caught.value)
    assert message.startswith(str(folder / "prompts.csv"))
    assert message.isprintable()
    assert "; accepted: " in message
    for part in parts:
        assert part in message


# --- the published schemas ---


def test_i2p_as_the_erasing_repositories_have_it():
    rows = read_prompt_file(DATA / "i2p.csv")
    assert [row.case for row in rows] == [str(number) for number in range(10)]
    assert rows[0] == PromptRow("0", "a photo of the airplane ", 4261553411, 13.0, 512, 512, ("self-harm",))
    assert rows[1].prompt == 'a "quoted" bird, with commas, and a tail '
    assert rows[1].categories == ("violence", "self-harm")
    assert rows[1].seed == 4290749014
    assert (rows[2].width, rows[2].height, rows[2].guidance_scale) == (512, 768, 7.5)
    assert "/" in rows[2].prompt
    assert len(rows[3].prompt) > 240
    assert rows[4].prompt == "a cat on the first line\nand a dog on the second\n"
    assert rows[5].prompt.endswith("\U0001f525")
    assert rows[5].seed == MAX_SEED
    assert rows[6].prompt == "a bell\x07 and a tab\tand an escape \x1b[31m"
    assert rows[7].prompt == "None"  # pandas makes it a missing cell
    assert rows[8].prompt.startswith("<script>")


def test_a_prompt_of_the_file_is_longer_than_clip_reads(tiny_sd):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_sd / "tokenizer")
    lengths = [len(tokenizer(row.prompt).input_ids) for row in read_prompt_file(DATA / "i2p.csv")]
    assert max(lengths) > 77


def test_i2p_as_its_authors_have_it_counts_its_rows():
    assert read_prompt_file(DATA / "i2p_dataset.csv") == read_prompt_file(DATA / "i2p.csv")


def test_coco_captions_name_no_guidance_and_no_size():
    rows = read_prompt_file(DATA / "coco.csv")
    assert rows[0] == PromptRow("0", "A bird with a clock as the front wheel.", 41337)
    assert rows[2].prompt == "A dog sitting between its master's feet\n"
    assert rows[3].prompt == " An old truck. "


def test_coco_photographs_sizes_become_sizes_that_can_be_drawn():
    rows = read_prompt_file(DATA / "coco_sizes.csv")
    assert [(row.width, row.height) for row in rows] == [(640, 480), (424, 640), (496, 368), (608, 608)]
    assert [replace(row, width=None, height=None) for row in rows] == read_prompt_file(DATA / "coco.csv")


@pytest.mark.parametrize("name", FILES)
def test_cases_prompts_and_seeds_fit_a_table(name):
    import pyarrow as pa

    rows = read_prompt_file(DATA / name)
    assert len({row.case for row in rows}) == len(rows)
    assert pa.array([row.seed for row in rows], pa.int64()).to_pylist() == [row.seed for row in rows]
    assert pa.array([row.prompt for row in rows], pa.string()).to_pylist() == [row.prompt for row in rows]


def test_every_seed_has_noise_of_its_own():
    import torch

    seeds = (0, 2**31 - 1, 2**31, 4290749014, MAX_SEED)
    noise = [torch.randn(4, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    assert len({tuple(values.tolist()) for values in noise}) == len(seeds)
    again = torch.randn(4, generator=torch.Generator("cpu").manual_seed(MAX_SEED + 1))
    assert torch.equal(again, noise[0])  # why greater seeds are refused


@pytest.mark.parametrize("limit", [None, 0, 1, 3, 10, 99])
def test_limit(limit):
    every = read_prompt_file(DATA / "i2p.csv")
    assert read_prompt_file(DATA / "i2p.csv", limit) == (every[:limit] if limit else every)


def test_limit_below_zero():
    with pytest.raises(ValueError, match="limit: found -1"):
        read_prompt_file(DATA / "i2p.csv", -1)


# --- forms of the same content ---


def test_byte_order_mark(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbf" + (DATA / "i2p.csv").read_bytes()) == read_prompt_file(DATA / "i2p.csv")


def test_windows_line_ends(tmp_path):
    content = (DATA / "i2p_dataset.csv").read_bytes().replace(b"\n", b"\r\n")
    rows = read(tmp_path, content)
    assert rows[4].prompt == "a cat on the first line\r\nand a dog on the second\r\n"
    assert [row.case for row in rows] == [str(number) for number in range(10)]
    assert rows[5:] == read_prompt_file(DATA / "i2p.csv")[5:]


def test_every_cell_in_quotes(tmp_path):
    rows = list(csv.reader(io.StringIO((DATA / "i2p.csv").read_text(), newline="")))
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    assert read(tmp_path, text.getvalue().encode()) == read_prompt_file(DATA / "i2p.csv")


def test_blank_lines_and_a_missing_last_line_end(tmp_path):
    content = (DATA / "coco.csv").read_bytes()
    assert read(tmp_path, content.rstrip(b"\n") + b"\n\n\n") == read_prompt_file(DATA / "coco.csv")
    assert read(tmp_path, content.rstrip(b"\n")) == read_prompt_file(DATA / "coco.csv")


def test_as_pandas_writes_it_with_a_missing_cell(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"prompt": ["a cat", "NA"], "evaluation_seed": [4290749014.0, 1.0], "coco_id": [5, None]})
    frame.to_csv(tmp_path / "frame.csv")
    assert read_prompt_file(tmp_path / "frame.csv") == [
        PromptRow("0", "a cat", 4290749014),
        PromptRow("1", "NA", 1),
    ]


def test_the_case_number_goes_before_the_number_of_the_row_beside_it(tmp_path):
    rows = read(tmp_path, b",prompt,evaluation_seed,case_number\n0,a cat,1,4702\n0,a dog,2,000000203564\n")
    assert [row.case for row in rows] == ["4702", "000000203564"]


def test_an_unnamed_column_elsewhere_is_no_case(tmp_path):
    assert read(tmp_path, b"prompt,sd_seed,\na cat,1,x\n") == [PromptRow("0", "a cat", 1)]


def test_other_columns_are_not_read(tmp_path):
    (row,) = read(tmp_path, as_csv(GOOD | {"hard": "abc", "lexica_url": "", "seed": "x"}))
    assert row == PromptRow("7", "a photo of the airplane", 4290749014, 7.0, 512, 768, ("hate", "violence"))


def test_empty_cells_name_no_setting(tmp_path):
    empty = {"evaluation_guidance": "", "sd_image_width": "", "sd_image_height": " ", "categories": ""}
    (row,) = read(tmp_path, as_csv(GOOD | empty))
    assert row == PromptRow("7", "a photo of the airplane", 4290749014)


@pytest.mark.parametrize(
    ("text", "seed"), [("1.0", 1), ("4290749014.0", 4290749014), (" 7 ", 7), ("007", 7), ("1.", 1)]
)
def test_seeds_that_are_whole_numbers(tmp_path, text, seed):
    assert read(tmp_path, as_csv(GOOD | {"evaluation_seed": text}))[0].seed == seed


# --- cells that are refused ---

BAD_CELLS = [
    ("evaluation_seed", "-1", "accepted: a whole number, 0 to 4294967295"),
    ("evaluation_seed", "4294967296", "found '4294967296'"),
    ("evaluation_seed", "9" * 5000, "found '9999"),
    ("evaluation_seed", "abc", "found 'abc'"),
    ("evaluation_seed", "1.5", "found '1.5'"),
    ("evaluation_seed", "1e3", "found '1e3'"),
    ("evaluation_seed", "0x10", "found '0x10'"),
    ("evaluation_seed", "1_000", "found '1_000'"),
    ("evaluation_seed", "٣", "found '٣'"),
    ("evaluation_seed", "nan", "found 'nan'"),
    ("evaluation_seed", "", "found ''"),
    ("evaluation_guidance", "0", "accepted: a number above 0"),
    ("evaluation_guidance", "-7.5", "found '-7.5'"),
    ("evaluation_guidance", "nan", "found 'nan'"),
    ("evaluation_guidance", "inf", "found 'inf'"),
    ("evaluation_guidance", "1e999", "found '1e999'"),
    ("evaluation_guidance", "1e-999", "found '1e-999'"),
    ("evaluation_guidance", "7,5", "found '7,5'"),
    ("evaluation_guidance", "high", "found 'high'"),
    ("sd_image_width", "500", "accepted: a multiple of 8, 8 to 4096"),
    ("sd_image_width", "0", "found '0'"),
    ("sd_image_width", "-512", "found '-512'"),
    ("sd_image_width", "512.5", "found '512.5'"),
    ("sd_image_width", "512512", "found '512512'"),
    ("sd_image_width", "nan", "found 'nan'"),
    ("sd_image_height", "427", "found '427'"),
    ("sd_image_height", "512px", "found '512px'"),
    ("sd_image_height", "", "accepted: width and height, or neither"),
    ("case_number", "", "accepted: a case number"),
    ("case_number", "7\n8", "found '7\\n8'"),
]


@pytest.mark.parametrize(("column", "text", "part"), BAD_CELLS)
def test_a_bad_cell_names_line_column_found_and_accepted(tmp_path, column, text, part):
    content = as_csv(GOOD | {"prompt": "two\nlines"}, GOOD | {"case_number": "8", column: text})
    fails(tmp_path, content, f", line 4: column {column}: found ", part)


@pytest.mark.parametrize(
    ("column", "text"), [("width", "7"), ("width", "4097"), ("height", "48.5"), ("height", "-480")]
)
def test_a_photograph_of_no_size_to_draw(tmp_path, column, text):
    row = {"prompt": "a cat", "evaluation_seed": "1", "width": "640", "height": "427"}
    assert read(tmp_path, as_csv(row)) == [PromptRow("0", "a cat", 1, None, 640, 424)]
    fails(tmp_path, as_csv(row | {column: text}), f", line 2: column {column}: found {text!r}", "8 to 4096")


def test_a_case_that_is_there_twice_is_drawn_twice(tmp_path):
    rows = [GOOD, GOOD | {"case_number": "7~2"}, GOOD | {"prompt": "another"}, GOOD]
    assert [row.case for row in read(tmp_path, as_csv(*rows))] == ["7", "7~2", "7~3", "7~4"]
    assert [row.case for row in read(tmp_path, b",prompt,sd_seed\n0,a cat,1\n0,a dog,2\n")] == ["0", "0~2"]


def test_the_last_row_is_checked_whatever_the_limit(tmp_path):
    (tmp_path / "prompts.csv").write_bytes(as_csv(GOOD, GOOD | {"case_number": "8", "evaluation_seed": "x"}))
    with pytest.raises(ArtifactError, match="line 3: column evaluation_seed"):
        read_prompt_file(tmp_path / "prompts.csv", limit=1)


# --- files that are refused ---


@pytest.mark.parametrize("column", sorted(set(GOOD) - {"case_number", "categories"}))
def test_an_i2p_file_without_a_column(tmp_path, column):
    row = {name: text for name, text in GOOD.items() if name != column}
    fails(tmp_path, as_csv(row), ", line 1: found columns 'case_number, ", f"accepted: with {column[:6]}")


def test_a_captions_file_without_prompts(tmp_path):
    row = {"case_number": "0", "source": "coco-30k", "evaluation_seed": "1", "coco_id": "5"}
    fails(tmp_path, as_csv(row), ", line 1: found columns 'case_number, source", "accepted: with prompt or text")


def test_one_side_of_a_size(tmp_path):
    fails(tmp_path, b"prompt,sd_seed,width\na cat,1,512\n", ", line 1: found one of width and height")


@pytest.mark.parametrize(
    "header", ["prompt,sd_seed,evaluation_seed", "prompt,sd_seed,prompt", "prompt,sd_seed,sd_seed"]
)
def test_two_columns_for_one_thing(tmp_path, header):
    fails(tmp_path, f"{header}\na cat,1,1\n".encode(), ", line 1: found columns ", " and ")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b" \t\r\n"])
def test_an_empty_file(tmp_path, content):
    fails(tmp_path, content)


def test_a_header_and_no_rows(tmp_path):
    fails(tmp_path, b"prompt,sd_seed\n\n", "found a header and no rows")


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (b"a cat\n", "1 cells (cells may be missing): 'a cat'"),
        (b"a cat,1,2\n", "3 cells (quotes may be missing around a text with a comma): 'a cat,1,2'"),
        (
            b"a cat, with a tail,1\n",
            "3 cells (quotes may be missing around a text with a comma): 'a cat, with a tail,1'",
        ),
    ],
)
def test_a_row_of_another_length_is_shown(tmp_path, row, hint):
    fails(tmp_path, b"prompt,sd_seed\na dog,1\n" + row, f", line 3: found {hint}; accepted: 2, as in the header")


@pytest.mark.parametrize("row", [b'"a cat,1\na dog,2\n', b'"a cat"s,1\n'])
def test_a_quote_that_is_not_closed_swallows_nothing(tmp_path, row):
    fails(tmp_path, b"prompt,sd_seed\na bird,0\n" + row, ", line 3: found ")


def test_a_cell_without_end(tmp_path):
    fails(tmp_path, b"prompt,sd_seed\n" + b"cat " * 50_000 + b",1\n", ", line 2: found field larger")


def test_text_that_is_no_utf8(tmp_path):
    content = "prompt,sd_seed\na cat,1\nun château,2\n".encode("latin-1")
    fails(tmp_path, content, ", line 3: found byte 0xe2", "accepted: text in UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_text_of_wide_characters(tmp_path, encoding):
    fails(tmp_path, "prompt,sd_seed\na cat,1\n".encode(encoding), ", line 1: found ")


def test_a_nul(tmp_path):
    fails(tmp_path, b"prompt,sd_seed\na cat,1\na\0dog,2\n", ", line 3: found a NUL character")


def test_an_image_instead(tmp_path):
    fails(tmp_path, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "found byte 0x89")


def test_a_git_lfs_pointer(tmp_path):
    fails(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "accepted: with prompt")


def test_nothing_or_a_folder(tmp_path):
    with pytest.raises(ArtifactError, match=r"none\.csv: a file is needed here, found nothing"):
        read_prompt_file(tmp_path / "none.csv")
    with pytest.raises(ArtifactError, match="a file is needed here, found a folder"):
        read_prompt_file(tmp_path)


# --- properties ---

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
CASES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
CATEGORIES = st.lists(st.text("abcxyz -éß\"'", min_size=1).filter(lambda text: text == text.strip()), max_size=4)
SIZES = st.integers(1, 512).map(lambda number: 8 * number)
ROWS = st.builds(
    lambda size, **values: PromptRow(width=size[0], height=size[1], **values),
    size=st.one_of(st.just((None, None)), st.tuples(SIZES, SIZES)),
    case=CASES,
    prompt=TEXT,
    seed=st.integers(0, MAX_SEED),
    guidance_scale=st.none() | st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    categories=CATEGORIES.map(tuple),
)
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "cut", "repeat"]), st.integers(0, 1 << 16), st.binary(max_size=4)
    ),
    min_size=1,
    max_size=6,
)
ONE_FOLDER = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}
"""Every example writes the same file anew."""


@settings(**ONE_FOLDER)
@given(st.lists(ROWS, min_size=1, max_size=8, unique_by=lambda row: row.case))
@example([PromptRow("0", 'a"\r\n,\r\ufeff', MAX_SEED, 5e-324, 8, 4096, ("a b",)), PromptRow("nan", "nan", 0)])
def test_rows_that_are_written_are_read_again(tmp_path, rows):
    assert read(tmp_path, from_rows(rows)) == rows


@settings(max_examples=300, **ONE_FOLDER)
@given(st.sampled_from(FILES), EDITS)
def test_a_spoiled_file_is_an_error_with_its_name_or_good_rows(tmp_path, name, edits):
    content = bytearray((DATA / name).read_bytes())
    for kind, number, data in edits:
        at = number % (len(content) + 1)
        if kind == "repeat":
            content[at:at] = content[at : at + number % 200]
        else:
            end = {"set": at + len(data), "insert": at, "delete": at + len(data), "cut": len(content)}[kind]
            content[at:end] = b"" if kind in ("delete", "cut") else data
    outcome = rows_or_message(tmp_path, bytes(content))
    if isinstance(outcome, str):
        assert outcome.startswith(str(tmp_path / "prompts.csv"))
        assert outcome.isprintable()
    else:
        assert outcome
        assert len({row.case for row in outcome}) == len(outcome)
        for row in outcome:
            check(row)


def rows_or_message(folder, content):
    try:
        return read(folder, content)
    except ArtifactError as error:
        return str(error)


def check(row):
    assert row.case.strip()
    assert row.seed is None or 0 <= row.seed <= MAX_SEED
    assert row.guidance_scale is None or 0 < row.guidance_scale < float("inf")
    assert (row.width is None) == (row.height is None)
    assert all(size is None or (size % 8 == 0 and 8 <= size <= 4096) for size in (row.width, row.height))
    assert all(category.strip() == category != "" for category in row.categories)


# --- what is added to the project ---


@pytest.fixture
def folder(tmp_path):
    return tmp_path / PROMPT_FILES


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(("name", "kind"), [("i2p.csv", "i2p"), ("i2p_dataset.csv", "i2p"), ("coco.csv", "coco")])
def test_add_copies_byte_for_byte_and_writes_nothing_else(folder, name, kind):
    path = add(DATA / name, kind, folder).path
    assert path == folder / f"{kind}.csv"
    assert path.read_bytes() == (DATA / name).read_bytes()
    assert names(folder) == [f"{kind}.csv"]


def test_add_under_another_name_with_its_checksum(folder):
    digest = file_sha256(DATA / "coco_sizes.csv")
    path = add(str(DATA / "coco_sizes.csv"), "coco", folder, name="coco-sizes", sha256=f" {digest.upper()}\n").path
    assert path == folder / "coco-sizes.csv"
    assert file_sha256(path) == digest


def test_add_again_leaves_the_file_alone(folder):
    path = add(DATA / "i2p.csv", "i2p", folder).path
    before = path.stat()
    assert add(DATA / "i2p.csv", "i2p", folder).path == path
    assert add(path, "i2p", folder).path == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_add_replaces_other_content_only_when_forced(folder):
    path = add(DATA / "i2p.csv", "i2p", folder).path
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"other content .SHA-256 {file_sha256(path)}.; accepted: another name"):
        add(DATA / "i2p_dataset.csv", "i2p", folder)
    assert path.read_bytes() == before
    add(DATA / "i2p_dataset.csv", "i2p", folder, force=True)
    assert path.read_bytes() == (DATA / "i2p_dataset.csv").read_bytes()
    assert names(folder) == ["i2p.csv"]


def test_add_replaces_a_link_and_not_what_it_leads_to(folder, tmp_path):
    cached = tmp_path / "cached.csv"
    cached.write_bytes((DATA / "i2p.csv").read_bytes())
    folder.mkdir(parents=True)
    (folder / "i2p.csv").symlink_to(cached)
    add(DATA / "i2p_dataset.csv", "i2p", folder, force=True)
    assert cached.read_bytes() == (DATA / "i2p.csv").read_bytes()


def test_what_is_added_in_a_working_folder_is_what_presets_find(tmp_path, monkeypatch):
    (tmp_path / PROMPT_FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert add(DATA / "coco.csv", "coco").path == PROMPT_FILES / "coco.csv" == prompt_file("coco")
    assert names(tmp_path / PROMPT_FILES) == ["coco.csv"]


@pytest.mark.parametrize("force", [False, True])
def test_add_never_replaces_a_folder(folder, force):
    (folder / "i2p.csv" / "kept").mkdir(parents=True)
    with pytest.raises(ConfigError, match="found a folder"):
        add(DATA / "i2p.csv", "i2p", folder, force=force)
    assert (folder / "i2p.csv" / "kept").is_dir()


def test_add_with_another_checksum(folder):
    with pytest.raises(ArtifactError) as caught:
        add(DATA / "i2p.csv", "i2p", folder, sha256="0" * 64)
    assert f"found SHA-256 {file_sha256(DATA / 'i2p.csv')}; accepted: {'0' * 64}" in str(caught.value)
    assert names(folder) == []


def test_add_with_one_bad_row_at_the_end(folder, tmp_path):
    source = tmp_path / "bad.csv"
    source.write_bytes((DATA / "coco.csv").read_bytes() + b"4,coco-30k,A cat.,-1,5\n")
    with pytest.raises(ArtifactError, match=r"bad\.csv, line 7: column evaluation_seed: found '-1'"):
        add(source, "coco", folder)
    assert names(folder) == []


def test_add_captions_as_i2p_and_the_other_way_round(folder):
    with pytest.raises(ArtifactError, match=r"coco\.csv, line 1: found columns .*accepted: with categories"):
        add(DATA / "coco.csv", "i2p", folder)
    with pytest.raises(ArtifactError, match=r"i2p\.csv, line 1: found the columns of kind i2p, not of coco"):
        add(DATA / "i2p.csv", "coco", folder)
    assert names(folder) == []


@pytest.mark.parametrize("name", ["", "../i2p", "/etc/i2p", "I2P", "i2p.csv", ".i2p", "a/b", "a b", "i2p\n"])
def test_add_under_a_name_that_would_leave_the_folder(folder, name):
    with pytest.raises(ConfigError, match=re.escape(f"name: found {name!r}; accepted: ")):
        add(DATA / "i2p.csv", "i2p", folder, name=name)
    assert names(folder) == []


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "0" * 63, "0" * 65])
def test_add_with_no_checksum_at_all(folder, sha256):
    with pytest.raises(ConfigError, match="accepted: 64 hexadecimal digits"):
        add(DATA / "i2p.csv", "i2p", folder, sha256=sha256)


def test_add_of_another_kind_or_from_elsewhere(folder, tmp_path):
    with pytest.raises(ConfigError, match="kind: found 'laion'; accepted: i2p, coco"):
        add(DATA / "i2p.csv", "laion", folder)
    for url in ("https://example.org/i2p.csv", Path("https://example.org/i2p.csv"), "s3://bucket/i2p.csv"):
        with pytest.raises(ConfigError, match="accepted: a local file; `dvc import-url` fetches one"):
            add(url, "i2p", folder)
    with pytest.raises(ArtifactError, match="found nothing"):
        add(tmp_path / "none.csv", "i2p", folder)
