"""The benchmarks at smoke size: what they compare is equal, what they say is what they measured."""

import json
import sys
import time
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import classes, generation, graph, growth, lora, mining, page, reference, sizes, solve, sums, timing
from realera.settings.config import SamplerParams
from realera.settings.errors import ArtifactError, RealEraError
from realera.store.artifacts import write_json
from tools import run_fullsize

SMOKE = timing.Settings("smoke")
WRITE_REPORTS = """
from pathlib import Path
for name in "index.html metrics.json sheets/file figures.csv plots/loss/file plots/geometry/file".split():
    path = Path("reports") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
"""
pytestmark = pytest.mark.usefixtures("one_thread")


def checked(section, num):
    """Every figure is a ratio of what it shows."""
    assert len(section.figures) == num
    for line in section.figures:
        first, second = (line.other, line.ours) if line.reads == "times as fast" else (line.ours, line.other)
        assert line.ours > 0 < line.other
        assert line.ratio == pytest.approx(first / second)
        assert line.low <= line.ratio * (1 + 1e-9)
    return {line.what: line for line in section.figures}


def test_the_matrices_are_those_of_stable_diffusion():
    found = sorted(tuple(weight.shape) for weight in sizes.weights().values())
    from realera.families import cross_attention
    from tools.fullsize import UNET, UNet2DConditionModel

    with torch.device("meta"):
        wanted = cross_attention.weights(UNet2DConditionModel(**UNET))
    assert found == sorted(tuple(weight.shape) for weight in wanted.values())


@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_both_forms_of_the_loop_and_ours_agree(num_erased, num_preserved, num_tokens):
    problem = reference.Problem.random(num_erased, num_preserved, num_tokens, width=16)
    weight = sizes.weights({8: 1}, 16)["8.0.weight"].double()
    new = solve.ours(problem, {"w": weight})["w"]
    for sum_of in (reference.outer_products, reference.matrix_product):
        assert torch.allclose(reference.edited(weight, problem, sum_of), new, rtol=0, atol=1e-9)
    assert not torch.allclose(weight, new, rtol=0, atol=1e-6)


def test_a_wrong_solve_is_noticed(monkeypatch):
    problem = reference.Problem.random(1, 1, 2, width=32)
    assert solve.difference(problem, (320,)) < solve.TOLERANCE
    monkeypatch.setattr(solve, "PRESERVE_SCALE", 0.2)
    with pytest.raises(RealEraError, match=r"solve: found a difference of .* accepted: 1e-09"):
        solve.difference(problem, (320,))


def test_a_share_is_scaled_to_all_concepts(monkeypatch):
    """With a clock that counts the sums, not the machine's seconds."""
    ticks = [0.0]
    monkeypatch.setattr(reference.time, "perf_counter", lambda: ticks[0])

    def counted(values, own):
        ticks[0] += 1
        return torch.zeros(values.shape[1], own.shape[1]), torch.zeros(own.shape[1], own.shape[1])

    problem = reference.Problem.random(4, 8, 1, width=4)
    assert [reference.loop_seconds(problem, counted, limit) for limit in (3, 12, 99)] == [12 * 32] * 3
    assert len(problem.share(3)) == 3
    assert len(problem.share(3).anchors) == len(problem.share(3).erased) == 1


def test_alternating_and_medians():
    calls = []
    measured = timing.alternate(lambda: calls.append("A") or 2.0, lambda: calls.append("B") or 6.0, 2)
    assert calls == ["A", "B"] * 3, "one round is the warm-up"
    assert timing.figure("w", "a", measured, "times as fast", 3.0).is_met
    slow = timing.figure("w", "a", ([2.0, 4.0, 9.0], [2.0, 2.0, 3.0]), "times as long", 1.5)
    assert (slow.ours, slow.other, slow.ratio, slow.low, slow.high) == (4.0, 2.0, 2.0, 1.0, 3.0)
    assert slow.is_met is False
    assert timing.figure("w", "a", measured, "times as long").is_met is None


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory_is_that_of_the_work():
    size = 200
    found = [timing.peak_mib(lambda: b"1" * (size * timing.MIB)) for _ in range(2)]
    assert all(size - 5 < peak < size + 20 for peak in found)
    assert timing.peak_mib(lambda: time.sleep(0)) < 20


def test_mining_follows_the_loop_s_law_and_is_measured():
    params = SamplerParams(**sizes.default("sampler") | {"M": 2, "N": 0})
    table = sizes.prompt_table(1)
    assert len(table.pairs("concept_to_end")[0].tokens) == sizes.SPAN
    ours, loop = mining.acceptance(table, params)
    assert ours == pytest.approx(loop, abs=0.15)
    section = mining.measure(SMOKE)
    checked(section, 2)
    assert set(section.curves) == {"RealEra", "Algorithm 1's loop"}


def test_exact_mining_and_many_concepts_are_measured():
    found = checked(sums.measure(SMOKE), 8)
    assert found["M = N = inf, mined and summed"].unit == "MiB"
    assert any("measured on 2, scaled" in line.note for line in found.values())


def test_all_concepts_of_the_benchmark_are_others(tmp_path):
    many = sums.Many(3, "concept", tmp_path)
    tables = list(many.tables())
    assert not torch.equal(tables[0].embeddings, tables[1].embeddings)
    many.run()
    assert len(list(tmp_path.iterdir())) == 3
    assert many.seconds > 0


@pytest.mark.slow
def test_two_builds_are_run_in_clones_of_their_own(monkeypatch):
    monkeypatch.setenv("REALERA_BEFORE", "HEAD")
    line = classes.measure(SMOKE).figures[0]
    assert line.what == "`dvc repro` of 1 classes from nothing, the words alone"
    assert line.ratio > 0
    monkeypatch.setenv("REALERA_BEFORE", "nowhere")
    with pytest.raises(RealEraError, match=r"git checkout --quiet: .*nowhere"):
        classes.measure(SMOKE)


def test_a_training_step_is_measured_and_leaves_the_model(pipe, monkeypatch):
    monkeypatch.setattr(lora, "open_pipeline", lambda *_, **__: pipe)
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    found = checked(lora.measure(SMOKE), 2)
    assert [line.unit for line in found.values()] == ["s", "MiB"]
    after = pipe.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_drawing_is_measured():
    section = generation.measure(SMOKE)
    assert section.figures[0].against == "bare UNet, the same batch"
    assert all(line.ratio > 0 for line in section.figures)


def test_the_bare_unet_makes_the_pipeline_s_passes(pipe):
    sizes_seen = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, arguments: sizes_seen.append(len(arguments[0])))
    generation.bare(pipe, 3, 2)()
    generation.one_at_a_time(pipe, ["a cat"], 2, 5.0)
    hook.remove()
    assert sizes_seen == [6, 6, 2, 2]


def test_the_start_of_a_stage_is_measured(tmp_path):
    line = graph.measure(SMOKE).figures[0]
    assert line.what == "start of plan"
    (tmp_path / "stage.py").write_text("import pyarrow\n")
    assert graph.imported(tmp_path / "stage.py") == ["pyarrow"]


def test_sums_over_concepts_are_those_of_one_table():
    """Mass erasure concept by concept solves what one table with all of them does."""
    one_by_one = growth.new_run()
    one_by_one.add(0, 3)
    one_by_one.add(1)
    assert one_by_one.grams["target"].num_rows == 2 * sizes.SPAN
    assert one_by_one.kept.num_rows == 3 * sizes.LENGTH
    kept = one_by_one.grams["neighbor"].source.clone()
    one_by_one.solve()
    assert set(one_by_one.seconds) == {"mine", "sums", "solve"}
    assert torch.equal(kept, one_by_one.grams["neighbor"].source)


@pytest.fixture
def results():
    lines = [
        timing.figure("1 & 2", "a <loop>", ([0.01], [12.5]), "times as fast", 100.0, "a share"),
        timing.figure("step", "passes", ([1.3, 1.4, 1.5], [1.0, 1.0, 1.0]), "times as long", 1.15),
    ]
    section = timing.Section(lines, {"loop <&>": [(1, 12.5), (10, 130.0)], "RealEra": [(10, 0.02), (1, 0.01)]})
    return {"solve": page.Result(section, "full", "a machine", 12.0), "lora": page.Result(section, "quick", "m", 1.0)}


def test_the_table_says_what_is_met_and_what_is_not(results):
    rows = page.table(results["solve"].section).splitlines()[2:]
    assert rows == [
        "| 1 & 2 | 10.0 ms | a <loop> | 12.5 s | **1,250** times as fast | at least 100: met | a share |",
        "| step | 1.40 s | passes | 1.00 s | **1.40** times as long (1.30 to 1.50) | at most 1.15: **not met** |  |",
    ]
    text = page.text(results)
    assert text.index("### Solve") < text.index("### A training step")
    assert "a quick look, not a full measurement" in text.partition("### A training step")[2]
    assert "look" not in text.partition("### A training step")[0]


def test_the_plot_holds_every_point_and_no_markup_from_names(results, tmp_path):
    path = tmp_path / "plot.svg"
    path.write_text(page.plot(results))
    elements = list(ElementTree.parse(path).iter())
    assert len([element for element in elements if element.tag.endswith("circle")]) == 4 + 2 * 2  # and the legend's
    assert "loop <&>" in [element.text for element in elements]
    heights = [float(e.get("cy")) for e in elements if e.tag.endswith("circle")][:2]
    assert heights[0] > heights[1], "what takes longer is higher up"
    assert page.plot(results) == page.plot(results)


def test_results_are_kept_read_and_refused(results, tmp_path):
    path = tmp_path / "results.json"
    assert page.read(path) == {}
    page.write(results, path)
    assert page.read(path) == results
    write_json({"solve": {"section": {}}}, path)
    with pytest.raises(ArtifactError, match=r"results.json: not the results of this program"):
        page.read(path)


@pytest.fixture
def application():
    import typer

    app = typer.Typer()
    app.command()(command.main)
    return app


def test_the_command_rewrites_page_and_plot_from_what_is_kept(results, application, tmp_path):
    kept, text, plot = tmp_path / "results.json", tmp_path / "page.md", tmp_path / "plot.svg"
    page.write(results, kept)
    text.write_text(f"before\n{run_fullsize.START}\nold\n{run_fullsize.END}\nafter\n")
    arguments = ["--no-run", "--out", str(kept), "--page", str(text), "--plot", str(plot), "--threads", "1"]
    before = torch.get_num_threads()
    try:
        done = CliRunner().invoke(application, arguments)
    finally:
        torch.set_num_threads(before)
    assert done.exit_code == 0, done.output
    assert text.read_text() == f"before\n{run_fullsize.START}\n{page.text(results)}\n{run_fullsize.END}\nafter\n"
    assert plot.read_text() == page.plot(results)


def test_a_run_replaces_its_own_results_only(results, application, tmp_path, monkeypatch):
    kept = tmp_path / "results.json"
    page.write(results, kept)
    monkeypatch.setattr(generation, "measure", lambda found: timing.Section(results["lora"].section.figures[1:]))
    done = CliRunner().invoke(application, ["--only", "generation", "--quick", "--out", str(kept)])
    assert done.exit_code == 0, done.output
    found = json.loads(kept.read_text())
    assert set(found) == {"solve", "lora", "generation"}
    assert found["generation"]["size"] == "quick"
    assert "2 threads, load" in found["generation"]["machine"]
    assert page.read(kept)["solve"] == results["solve"]
    assert "### Drawing" in done.output
    assert "### Solve" not in done.output


@pytest.mark.slow
def test_nothing_runs_in_a_graph_whose_outputs_are_there(tmp_path):
    found = graph.copy_with_outputs(tmp_path, 2)
    graph.no_op(found)
    (found.root / "stages/report.py").write_text(WRITE_REPORTS)
    with pytest.raises(RealEraError, match=r"dvc repro: found 1 stages that ran, report first"):
        graph.no_op(found)
