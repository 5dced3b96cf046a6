"""The report on artifacts that the real stages made, at tiny counts."""

import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from realera.report import charts, geometry, panel, pictures, svg, write_report
from realera.report import results as results_table
from realera.report.inputs import MOST_SHOWN, read_inputs
from realera.report.tables import HEADLINES
from realera.settings.config import ReportParams, SamplerParams, load_params
from realera.settings.errors import ArtifactError
from realera.settings.presets import load_preset
from realera.store.artifacts import read_json, read_parquet, write_parquet
from tests.kit.report_project import CONCEPTS, HOSTILE_TEXT, HOSTILE_WORD, build, inside
from tools import results


@pytest.fixture(scope="module")
def project(tmp_path_factory, repository):
    return build(tmp_path_factory.getbasetemp() / "report-project", repository)


@pytest.fixture(scope="module")
def reports(project):
    with inside(project):
        write_report(load_params(), Path("artifacts"), Path("reports"))
    return project / "reports"


@pytest.fixture
def inputs(project):
    return read_inputs("airplane", "realera", project / "artifacts", "airplane")


def test_the_stage_prints_the_table_and_the_path(project, repository):
    result = _run_stage(project, repository)
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith("report: reports/index.html")
    figure = _figures(project / "reports")["airplane", "realera", "H_o", "top1", "erased"]
    assert "{:.1f} [{:.1f}, {:.1f}]".format(*figure) in result.stdout


def test_a_missing_artifact_is_one_line(project, repository, tmp_path):
    copy = shutil.copytree(project, tmp_path / "project")
    (copy / "artifacts/cat/realera/solve.json").unlink()
    result = _run_stage(copy, repository)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines() == [
        "error: artifacts/cat/realera/solve.json: a file is needed here, found nothing"
    ]


def test_metrics_are_flat_and_agree_with_the_scores(project, reports):
    """A column a headline figure: `dvc metrics show` and `dvc exp show` stay as wide as a screen."""
    metrics = read_json(reports / "metrics.json")
    assert all(isinstance(value, float) for value in metrics.values())
    headlines = ("Acc_e", "Acc_s", "Acc_g", "H_o", "residue", "collateral", "unseen")
    names = (*CONCEPTS, "average")
    assert set(metrics) <= {f"{name}.realera.{metric}" for name in names for metric in headlines}
    for concept in CONCEPTS:
        scores = read_json(project / "artifacts" / concept / "realera/scores.json")
        for metric in headlines:
            figure = (scores["erased"][metric] or {}).get(
                "probability", {"value": None}
            )  # of look-alikes that the base drew
            assert metrics.get(f"{concept}.realera.{metric}") == pytest.approx(figure["value"], abs=1e-4), metric
            assert figure["value"] is not None or metric == "collateral"
    mean = np.mean([metrics[f"{concept}.realera.H_o"] for concept in CONCEPTS])
    assert metrics["average.realera.H_o"] == pytest.approx(mean, abs=1e-3)


def test_metrics_are_by_the_reading_that_is_asked_for(project, tmp_path):
    params, figures = _params(project), None
    for reading in ("top1", "clip_score", "nudenet_images"):
        given = params.model_copy(update={"score": params.score.model_copy(update={"reading": reading})})
        with inside(project):
            write_report(given, Path("artifacts"), tmp_path)
        metrics = read_json(tmp_path / "metrics.json")
        figures = figures or _figures(tmp_path)
        assert figures == _figures(tmp_path)  # has every reading
        wanted = {
            f"{concept}.{method}.{metric}": values[0]
            for (concept, method, metric, name, model), values in figures.items()
            if (name, model) == (reading, "erased") and metric in HEADLINES
        }
        assert metrics == wanted
        assert bool(wanted) == (reading != "nudenet_images")  # which no judge of these presets gives


def test_figures_are_those_of_the_scores_with_their_intervals(project, reports):
    figures = _figures(reports)
    assert len(figures) == len(_csv(reports / "figures.csv"))  # no row twice
    seen = set()
    for concept in CONCEPTS:
        scores = read_json(project / "artifacts" / concept / "realera/scores.json")
        for model in ("base", "erased", "difference"):
            for metric, readings in scores[model].items():
                for reading, figure in (readings or {}).items():
                    key = (concept, "realera", metric, reading, model)
                    wanted = [figure[name] for name in ("value", "low", "high")]
                    assert figures[key] == pytest.approx(wanted, abs=1e-4), key
                    seen.add(key)
    assert {key for key in figures if key[0] != "average"} == seen
    assert {key[:2] for key in figures} == {(name, "realera") for name in (*CONCEPTS, "average")}
    assert {(figures[key][0] >= figures[key][1], figures[key][0] <= figures[key][2]) for key in figures} == {
        (True, True)
    }
    read_back = results_table.read_figures(reports / "figures.csv")
    for (concept, method, metric, reading, model), values in figures.items():
        figure = read_back[concept, method][model][metric][reading]
        assert [figure[name] for name in ("value", "low", "high")] == list(values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "concept,method\n",
        "concept,method,metric,reading,model,value,low,high,n\n",
        "concept,method,metric,reading,model,value,low,high,n\ncat,realera,H_o,top1,erased,x,1,2,3\n",
        "concept,method,metric,reading,model,value,low,high,n\ncat,realera,H_o,top1,other,1,1,2,3\n",
        "concept,method,metric,reading,model,value,low,high,n\ncat,realera,H_o\n",
        'concept,method,metric,reading,model,value,low,high,n\n"cat',
    ],
)
def test_a_table_of_figures_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "figures.csv").write_text(text)
    with pytest.raises(ArtifactError, match=r"figures\.csv: ") as caught:
        results_table.read_figures(tmp_path / "figures.csv")
    assert "\n" not in str(caught.value)
    with pytest.raises(ArtifactError, match=r"none\.csv: not there yet; made by: dvc repro"):
        results_table.read_figures(tmp_path / "none.csv")


def test_plots_hold_the_loss_the_figures_and_the_geometry(project, reports):
    with (project / "artifacts/cat/realera/loss.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [float(row["loss"]) for row in _csv(reports / "plots/loss/cat.csv")] == losses
    rows = _csv(reports / "figures.csv")
    assert {row["concept"] for row in rows} == {*CONCEPTS, "average"}
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    kinds = {row["kind"] for row in _csv(reports / "plots/geometry/airplane.csv")}
    assert kinds == {"neighbor", "beyond", "anchor", "preserve"}


def test_equal_inputs_give_equal_bytes(project, reports, tmp_path):
    with inside(project):
        write_report(load_params(), Path("artifacts"), tmp_path / "again")
    names = sorted(path.relative_to(reports) for path in reports.rglob("*") if path.is_file())
    assert len(names) == 3 + len(CONCEPTS) + 2 * len(CONCEPTS)  # page, metrics, figures; sheets; two plots each
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (reports / name).read_bytes(), name


def test_files_of_a_concept_that_is_gone_go(project, tmp_path):
    params = _params(project)
    with inside(project):
        write_report(params, Path("artifacts"), tmp_path)
        write_report(params.model_copy(update={"concepts": ("cat",)}), Path("artifacts"), tmp_path)
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["cat.png"]
    assert [path.name for path in (tmp_path / "plots/loss").iterdir()] == ["cat.csv"]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'class="tabs"' not in page
    assert "Mean of 1 concepts" not in page


def test_the_page_escapes_what_users_wrote(reports):
    page = (reports / "index.html").read_text(encoding="utf-8")
    assert HOSTILE_TEXT not in page
    assert HOSTILE_WORD not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script") == 1


def test_the_page_stands_alone(reports):
    page = (reports / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://", page)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {re.split("[,:]", address)[0] if address[0] != "#" else "#" for address in addresses} == {"data", "#"}


def test_the_page_says_whose_figures_these_are(project, tmp_path):
    params = _params(project)
    other = params.model.model_copy(update={"id": "owner/other-model", "revision": "v2"})
    with inside(project):
        write_report(params, Path("artifacts"), tmp_path / "embedded")
        write_report(params.model_copy(update={"model": other}), Path("artifacts"), tmp_path / "other")
    embedded = (tmp_path / "embedded/index.html").read_text(encoding="utf-8")
    assert "Model: data/models/tiny-sd" in embedded
    assert "are not those of Stable Diffusion v1.4" in embedded
    page = (tmp_path / "other/index.html").read_text(encoding="utf-8")
    assert "Model: owner/other-model</strong> at v2." in page
    assert "are not those of Stable Diffusion v1.4" not in page


def test_every_parameter_is_on_the_page(project, reports):
    page = (reports / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<th scope="row">([^<]*)</th><td>', page)
    dumped = _params(project).model_dump()
    keys = [key for value in dumped.values() if isinstance(value, dict) for key in value if key != "images"]
    assert set(keys) <= set(shown)
    assert {f"images.{group}" for group in dumped["generate"]["images"]} <= set(shown)


def test_the_report_starts_without_torch(repository):
    code = "import sys, realera.report; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository, check=True)
    assert result.stdout.strip() == "[]"


def test_pictures_are_pairs_of_one_prompt_and_seed(inputs):
    shown = pictures.words(inputs, MOST_SHOWN)
    assert [word.group for word in shown[:3]] == ["erase", "synonym", "synonym"]
    originals = {(row["word"], row["seed"]): row["png"] for row in inputs.original}
    erased = {(row["word"], row["seed"]): row["png"] for row in inputs.erased}
    for word in shown:
        assert [pair.seed for pair in word.pairs] == sorted(pair.seed for pair in word.pairs)
        for pair in word.pairs:
            assert pair.original == originals[word.word, pair.seed]
            assert pair.erased == (None if word.group == "anchor" else erased[word.word, pair.seed])
            assert pair.seen_original is not None


def test_what_the_judge_sees_is_its_likeliest_word(project, inputs):
    rows = read_parquet(project / "artifacts/airplane/realera/scores.parquet").to_pylist()
    row = next(row for row in rows if row["group"] == "erase" and row["metric"] == "anchor")
    label, probability = inputs.judged[row["model"], row["image_id"]]
    assert probability == max(row["values"])
    assert row["labels"][row["values"].index(probability)] == label
    assert "rainbow" in row["labels"]


def test_the_contact_sheet_has_the_original_above_the_erased(inputs, reports):
    sheet = Image.open(reports / "sheets/airplane.png").convert("RGB")
    word = pictures.words(inputs, MOST_SHOWN)[0]
    top, left = pictures._TITLE_HEIGHT, pictures._LABEL_WIDTH
    for index, png in enumerate((word.pairs[0].original, word.pairs[0].erased)):
        place = (left, top + index * 66, left + 64, top + index * 66 + 64)
        expected = Image.open(io.BytesIO(png)).convert("RGB")
        assert sheet.crop(place).tobytes() == expected.tobytes()


def test_pictures_of_explicit_content_are_blurred_unless_asked(project, inputs):
    params, preset = _params(project), load_preset_of(project, "airplane")
    explicit = preset.model_copy(update={"task": "explicit"})
    png = inputs.erased[0]["png"]
    sharp = pictures.data_uri(png)
    points = geometry.points(inputs.prompts, inputs.chain.samples, "concept")
    assert sharp in str(panel.concept_panel(inputs, preset, params, points))
    blurred = panel.concept_panel(inputs, explicit, params, points)
    assert blurred["blurred"]
    shown = str(blurred)
    assert not [row for row in inputs.erased + inputs.original if pictures.data_uri(row["png"]) in shown]
    open_params = params.model_copy(update={"report": ReportParams(explicit_images="shown")})
    assert sharp in str(panel.concept_panel(inputs, explicit, open_params, points))
    detail, rest = (_detail(each) for each in (png, pictures.blurred(png)))
    assert rest < 0.2 * detail


def load_preset_of(project: Path, name: str):
    with inside(project):
        return load_preset(name)


def _detail(png: bytes) -> float:
    """Mean difference between neighboring pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float)
    return np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()


def test_the_papers_rows_stand_beside_ours(inputs, project, reports):
    rows = panel.paper_rows("airplane", load_preset_of(project, "airplane"), inputs.scores)
    assert rows["columns"] == ["Acc_e", "Acc_s", "Acc_g", "H_o"]
    names = [row["name"] for row in rows["rows"]]
    assert names[:2] == ["base model, here", "erased, here"]
    theirs = next(row for row in rows["rows"] if row["name"].startswith("RealEra"))
    assert theirs["cells"] == ["3.38", "96.18", "8.87", "94.58"]
    assert rows["reading"] == "mean probability"
    assert (
        panel.paper_rows(
            "piano", load_preset_of(project, "airplane").model_copy(update={"targets": ("piano",)}), inputs.scores
        )
        is None
    )
    page = (reports / "index.html").read_text(encoding="utf-8")
    assert "different models, so compare the pattern, not the level" in page


def test_the_tables_of_results_have_no_figure_without_its_interval(project):
    scores = {concept: read_json(project / "artifacts" / concept / "realera/scores.json") for concept in CONCEPTS}
    lines = [line for line in results.tables(scores).splitlines() if re.search(r"\d", line) and "mean of" not in line]
    assert len(lines) == 2 * 3 + 2 * len(CONCEPTS)
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")][2:]
        assert all(not cell or re.fullmatch(r"\S+ \[\S+, \S+\]", cell) for cell in cells), line


def test_large_pictures_are_scaled_down(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (512, 256), "red").save(buffer, "png")
    assert pictures.size_on_page(buffer.getvalue()) == (128, 64)
    assert len(pictures.data_uri(buffer.getvalue())) < 1000


def test_a_corrupt_picture_is_named(project, tmp_path):
    copy = shutil.copytree(project / "artifacts", tmp_path / "artifacts")
    table = read_parquet(copy / "cat/realera/images.parquet")
    broken = table.set_column(table.schema.get_field_index("png"), "png", pa.array([b"no image"] * table.num_rows))
    write_parquet(broken, copy / "cat/realera/images.parquet")
    with inside(project), pytest.raises(ArtifactError, match="not a readable image"):
        write_report(load_params(), copy, tmp_path / "reports")
    assert not (tmp_path / "reports/index.html").exists()


def test_points_are_relative_to_the_target(inputs):
    points = geometry.points(inputs.prompts, inputs.chain.samples, "concept_to_end")
    rows = inputs.prompts.to_pylist()
    width = int(inputs.prompts.schema.metadata[b"width"])

    def vector(row):
        return np.array(row["embedding"]).reshape(-1, width)[row["num_tokens"] - 1]

    target = next(row for row in rows if row["role"] == "target")
    anchor = next(row for row in rows if row["role"] == "anchor" and row["pair_id"] == target["pair_id"])
    e, x = vector(target), vector(anchor)
    found = next(point for point in points if point.kind == "anchor" and point.label == anchor["text"])
    assert found.distance == pytest.approx(np.linalg.norm(x - e) / np.linalg.norm(e), rel=1e-6)
    assert found.cosine == pytest.approx(x @ e / np.linalg.norm(x) / np.linalg.norm(e), rel=1e-6)


def test_samples_keep_their_limits_in_the_plot(project, inputs):
    sampler = _params(project).sampler
    points = geometry.points(inputs.prompts, inputs.chain.samples, sampler.span)
    neighbors = [point.distance for point in points if point.kind == "neighbor"]
    beyond = [point.distance for point in points if point.kind == "beyond"]
    assert max(neighbors) <= sampler.D1 * 1.0001
    assert min(beyond) >= sampler.D1 * 0.9999
    assert max(beyond) <= sampler.D2 * 1.0001
    assert len(neighbors) == 2  # of infinitely many a typical one for each prompt
    assert len(beyond) == 2 * 2  # two samples each


def test_a_target_in_its_own_preserve_list_lies_at_no_distance(inputs):
    found = inputs.prompts.to_pylist()
    copied = [{**found[0], "role": "preserve", "pair_id": -1}, *found]
    table = pa.Table.from_pylist(copied, schema=inputs.prompts.schema)
    nearest = geometry.nearest_preserved(geometry.points(table, inputs.chain.samples, "concept"), 1)[0]
    assert (nearest.distance, nearest.cosine) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.003), (-1, 1.06), (0, 100), (3, 7), (0, 130000)])
def test_ticks_are_few_round_and_inside(low, high):
    ticks = svg.x_axis("", low, high).ticks()
    assert 3 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert all(len(svg.number(tick).lstrip("-0.").rstrip("0.")) <= 2 for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 3e-3), (0.8, 9), (1e-9, 10)])
def test_a_log_axis_counts_in_powers_of_ten(low, high):
    axis = svg.log_axis("", low, high)
    places = [axis.at(tick) for tick in axis.ticks()]
    assert len(places) >= 3
    assert places == sorted(places, reverse=True)  # low values lie below
    assert axis.at(low) - axis.at(10 * low) == pytest.approx(axis.at(0.1 * high) - axis.at(high), abs=0.2)
    assert axis.at(0) == axis.at(low)


def test_an_axis_of_no_length_is_widened():
    assert svg.x_axis("", 2, 2).at(2) < svg.x_axis("", 2, 2).at(3)


def test_charts_without_data_are_drawn():
    assert "<svg" in charts.loss_chart([])
    sampler = SamplerParams(
        M=0, N=0, D1=1, D1_anchor=0, D2=2, S1=1, S2=0, span="concept", noise="shared", units="absolute",
        direction="paper", source="noise", seed=0,
    )  # fmt: skip
    assert "limit" not in charts.geometry_chart([], sampler)


def test_chart_labels_are_escaped():
    x, y = svg.x_axis("a<b", 0, 1), svg.y_axis('"', 0, 1)
    drawn = svg.chart('"><script>', x, y, [svg.dot(0, 0, x, y, "ring", "<b>")])
    assert "<b>" not in drawn
    assert "<script>" not in drawn
    assert "a&lt;b" in drawn


def _params(project: Path):
    return load_params(project / "params.yaml")


def _run_stage(project: Path, repository: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(repository / "stages/report.py")]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def _figures(reports: Path) -> dict[tuple, tuple]:
    """Return (concept, method, metric, reading, model) -> value, low, high of figures.csv."""
    keys, values = ("concept", "method", "metric", "reading", "model"), ("value", "low", "high")
    rows = _csv(reports / "figures.csv")
    return {tuple(row[key] for key in keys): tuple(float(row[key]) for key in values) for row in rows}


def _csv(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
