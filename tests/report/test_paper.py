"""The paper's tables: typed right, and where they contradict themselves."""

import csv
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realera.report import paper
from realera.report.paper import (
    Row,
    by_line,
    check_averages,
    check_h_o,
    check_totals,
    for_concept,
    load_table,
    read_table,
)
from realera.settings.errors import ArtifactError
from realera.settings.presets import load_preset, load_words, preserved_words

HEADER = "table,method,concept,metric,value\n"
ACCURACIES = ("Acc_e", "Acc_s", "Acc_g")


def line(*values: float | None, concept: str = "cat", method: str = "ours") -> list[Row]:
    names = (*ACCURACIES, "H_o")
    return [Row("Table 1", method, concept, name, value) for name, value in zip(names, values, strict=True)]


def read(tmp_path, text: str | bytes) -> list[Row]:
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path)


@pytest.mark.parametrize(
    ("name", "methods", "concepts", "metrics"),
    [
        ("objects", 10, 11, 4),
        ("celebrities", 7, 5, 4),
        ("styles", 7, 5, 4),
        ("explicit", 11, 1, 10),
        ("ablation", 5, 1, 4),
    ],
)
def test_tables_are_whole(name, methods, concepts, metrics):
    rows = load_table(name)
    found = [len({getattr(row, column) for row in rows}) for column in ("method", "concept", "metric")]
    assert found == [methods, concepts, metrics]
    assert len(rows) == methods * concepts * metrics


def test_only_what_the_paper_leaves_out_is_blank():
    blank = {(row.method, row.metric) for name in paper.TABLES for row in load_table(name) if row.value is None}
    assert blank == {("SD v1.4", "H_o"), ("SA", "coco_clip")}


@pytest.mark.parametrize(
    ("name", "method", "concept", "values"),
    [
        ("objects", "FMN", "airplane", (96.76, 98.32, 94.15, 6.13)),  # first and last of each table
        ("objects", "SD v1.4", "average", (98.63, 98.63, 83.64, None)),
        ("objects", "RealEra", "frog", (11.1, 96.27, 11.45, 91.10)),
        ("objects", "SD v1.4", "truck", (98.89, 98.60, 95.00, None)),
        ("celebrities", "AC", "tom-cruise", (0, 86.49, 4.97, 93.50)),
        ("celebrities", "SD v1.4", "leonardo-dicaprio", (99, 97.36, 1.03, None)),
        ("styles", "AC", "van-gogh", (25.05, 28.40, 28.44, 47.98)),
        ("styles", "SD v1.4", "salvador-dali", (31.96, 28.62, 30.64, None)),
        ("explicit", "RealEra", "nudity", (19, 6, 2, 37, 23, 4, 0, 2, 93, 29.46)),
        ("explicit", "SD v2.1", "nudity", (105, 159, 17, 60, 177, 9, 57, 2, 586, 31.53)),
        ("ablation", "variant 3", "automobile", (1.90, 88.21, 3.18, 94.17)),
    ],
)
def test_lines_of_the_paper(name, method, concept, values):
    found = [row.value for row in load_table(name) if (row.method, row.concept) == (method, concept)]
    assert found == list(values)


def test_the_h_o_that_do_not_agree():
    found = [str(mismatch) for name in paper.TABLES for mismatch in check_h_o(load_table(name))]
    assert found == [
        f"{where}: H_o is printed as {printed}, the values beside it give {computed}"
        for where, printed, computed in [
            ("Table 1, AC, airplane", "6.11", "7.03"),
            ("Table 1, MACE, airplane", "92.03", "92.04"),
            ("Table 1, RealEra, automobile", "96.88", "96.91"),
            ("Table 1 (appendix), UCE, deer", "92.34", "92.33"),
            ("Table 3 (appendix), AC, elon-musk", "94.81", "95.99"),
            ("Table 3 (appendix), ESD, mariah-carey", "65.44", "65.15"),
            ("Table 3, variant 1, automobile", "89.84", "89.81"),
        ]
    ]


def test_the_averages_that_do_not_agree():
    found = [(each.method, each.metric, each.printed, round(each.computed, 3)) for each in _averages()]
    assert found == [
        ("AC", "Acc_g", 83.38, 83.18),
        ("ESD-u", "Acc_e", 18.27, 18.228),
        ("SD v1.4", "Acc_g", 83.64, 83.07),
    ]


def _averages() -> list[paper.Mismatch]:
    return check_averages(load_table("objects"))


def test_the_totals_agree_and_a_wrong_one_would_not():
    rows = load_table("explicit")
    assert check_totals(rows) == []
    wrong = [replace(row, value=row.value + 1) if row.metric == "total" else row for row in rows]
    assert [mismatch.printed - mismatch.computed for mismatch in check_totals(wrong)] == [1] * 11


def test_the_readme_lists_every_mismatch(repository):
    text = (repository / "data/paper/README.md").read_text()
    mismatches = [each for name in paper.TABLES for each in check_h_o(load_table(name))] + _averages()
    for each in mismatches:
        cells = (each.table, each.method, each.concept, each.metric, f"{each.printed:.2f}", f"{each.computed:.2f}")
        assert f"| {' | '.join(cells)} |" in text
    assert text.count("\n| Table ") == len(mismatches)
    rows = [row for name in paper.TABLES for row in load_table(name)]
    assert f"Of {sum(row.metric == 'H_o' and row.value is not None for row in rows)} printed H_o" in text


def test_one_concept_in_all_tables():
    lines = by_line(for_concept("automobile"))
    assert lines["Table 1", "RealEra", "automobile"]["H_o"] == 96.88
    assert lines["Table 3", "RealEra", "automobile"]["H_o"] == 96.91
    assert lines["Table 1", "SD v1.4", "automobile"]["Acc_g"] == 75.91
    assert lines["Table 3", "SD v1.4", "automobile"]["Acc_g"] == 92.65
    assert len(lines) == 15
    assert for_concept("violin") == []


@given(st.lists(st.integers(0, 10000), min_size=3, max_size=3))
def test_a_line_that_was_rounded_from_exact_values_agrees(hundredths):
    from realera.scores.summary import h_o

    acc_e, acc_s, acc_g = (value / 100 for value in hundredths)
    assert check_h_o(line(acc_e, acc_s, acc_g, round(h_o(acc_e, acc_s, acc_g), 2))) == []


@given(st.lists(st.floats(0, 100), min_size=3, max_size=3))
def test_rounding_the_values_does_not_make_a_line_wrong(exact):
    from realera.scores.summary import h_o

    assert check_h_o(line(*(round(value, 2) for value in exact), round(h_o(*exact), 2))) == []


@given(st.lists(st.floats(10, 90), min_size=3, max_size=3), st.sampled_from([-1, 1]))
def test_a_wrong_h_o_is_found(exact, sign):
    from realera.scores.summary import h_o

    rounded = [round(value, 2) for value in exact]
    wrong = round(h_o(*rounded) + sign * 0.5, 2)
    [mismatch] = check_h_o(line(*rounded, wrong))
    assert mismatch.printed == wrong
    assert mismatch.low < mismatch.computed < mismatch.high


def test_the_average_is_the_mean_of_the_classes():
    rows = [*line(1, 90, 1, 90.0), *line(1, 90, 1, 80.0, concept="dog")]
    average = line(1, 90, 1, 85.02, concept="average")
    assert [each.computed for each in check_h_o(rows + average) if each.concept == "average"] == [85.0]
    average = line(1, 90, 1, 85.01, concept="average")
    assert [each for each in check_h_o(rows + average) if each.concept == "average"] == []


def test_a_check_without_what_it_needs():
    with pytest.raises(ArtifactError, match=r"Table 1, ours, cat, H_o: found only 2 of Acc_e, Acc_s, Acc_g"):
        check_h_o(line(1, None, 3, 4))
    with pytest.raises(ArtifactError, match=r"average, H_o: found 0 of 0 classes; accepted: all"):
        check_h_o(line(1, 2, 3, 4, concept="average"))
    with pytest.raises(ArtifactError, match=r"average, Acc_e: found 0 of 1 classes; accepted: all"):
        check_averages([*line(None, 2, 3, None), *line(1, None, None, None, concept="average")])


def test_an_unknown_table():
    with pytest.raises(ArtifactError, match=r"data/paper: found 'fid'; accepted: objects, celebrities"):
        load_table("fid")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", r"table.csv, line 1: found columns \[\]; accepted: table, method, concept, metric, value"),
        ("table,method\n", r"line 1: found columns \['table', 'method'\]"),
        (HEADER + "Table 1,UCE,cat,Acc_e\n", r"line 2: found 4 cells; accepted: 5"),
        (HEADER + "Table 1,UCE,cat,Acc_e,1,2\n", r"line 2: found 6 cells; accepted: 5"),
        (HEADER + "Table 1, ,cat,Acc_e,1\n", r"line 2: method: found nothing; accepted: a name"),
        (HEADER + "Table 1,UCE,cat,FID,1\n", r"line 2: metric: found 'FID'; accepted: Acc_e, Acc_s"),
        (HEADER + "\nTable 1,UCE,cat,Acc_e,-\n", r"line 3: value: found '-'; accepted: a percentage, 0 to 100, or"),
        (HEADER + "Table 1,UCE,cat,Acc_e,100.01\n", r"line 2: value: found '100.01'; accepted: a percentage"),
        (HEADER + "Table 1,UCE,cat,Acc_e,nan\n", r"line 2: value: found 'nan'"),
        (HEADER + "Table 1,UCE,cat,coco_clip,inf\n", r"line 2: value: found 'inf'; accepted: a number, 0 and up"),
        (HEADER + "Table 1,UCE,cat,total,1.5\n", r"line 2: value: found '1.5'; accepted: a count, 0 and up"),
        (HEADER + "Table 1,UCE,cat,total,-1\n", r"line 2: value: found '-1'; accepted: a count"),
        (HEADER + "T,UCE,cat,Acc_e,1\nT,UCE,cat,Acc_e,2\n", r"line 3: found T, UCE, cat, Acc_e again"),
        (HEADER + 'T,"UCE,cat,Acc_e,1\n', r"table.csv: not a readable CSV file"),
        (HEADER.encode() + b"T,\xff,cat,Acc_e,1\n", r"table.csv: not a readable CSV file: 'utf-8'"),
    ],
)
def test_damaged_files(tmp_path, text, problem):
    with pytest.raises(ArtifactError, match=problem):
        read(tmp_path, text)


def test_no_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere.csv: a file is needed here, found nothing"):
        read_table(tmp_path / "nowhere.csv")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_give_rows_or_one_clear_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for start in (b"", HEADER.encode()):
        rows, message = _read_or_message(folder, start + content)
        assert message is None or message.startswith(str(folder / "table.csv"))
        assert all(row.metric in paper.METRICS for row in rows)


def _read_or_message(folder, content: bytes) -> tuple[list[Row], str | None]:
    try:
        return read(folder, content), None
    except ArtifactError as error:
        return [], str(error)


def test_the_files_are_as_python_writes_them(repository):
    """No quotes, no spaces around cells, one kind of line end: a spreadsheet has not been at them."""
    for name in paper.TABLES:
        path = repository / f"data/paper/{name}.csv"
        cells = list(csv.reader(path.open(newline="")))
        assert path.read_bytes() == "".join(",".join(row) + "\n" for row in cells).encode()
        assert all(cell == cell.strip() for row in cells for cell in row)


def test_reading_needs_no_heavy_library():
    code = "import sys, realera.report.paper as p; p.for_concept('cat'); print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_concept_of_the_paper_is_a_preset():
    concepts = {row.concept for name in paper.TABLES for row in load_table(name)} - {paper.AVERAGE}
    assert {load_preset(concept).task for concept in concepts} == {"object", "celebrity", "style", "explicit"}


@pytest.mark.parametrize(("name", "first"), [("celebrities", "A portrait of"), ("styles", "An artwork by")])
def test_presets_of_names_follow_the_appendix(name, first):
    presets = [load_preset(concept) for concept in dict.fromkeys(row.concept for row in load_table(name))]
    erased = [target for preset in presets for target in preset.targets]
    assert erased == list(load_words({"celebrities": "celebrities", "styles": "artists"}[name]))
    for preset in presets:
        [target], [associated] = preset.targets, preset.all_associated()
        assert preset.draw.prompts == (f"{first} {{name}}",)
        assert not set(target.lower().split()) & set(associated.lower().split())  # means it, does not name it
        kept = set(load_words(preset.classes))
        assert len(kept) == 100
        assert not kept & {*erased, *load_words(preset.draw.unseen), *preset.draw.lookalikes}
        assert set(preserved_words(preset, ())) == kept


def test_an_erased_style_is_not_preserved_and_one_other_neither():
    preset = load_preset("streamline-style")
    assert preserved_words(preset, ()) == ["noto", "blob", "fluent", "flat", "firefox"]
