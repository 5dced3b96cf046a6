"""Tables and maps of experiments, from real `dvc exp show --csv` text."""

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from realera.report.results import read_figures
from realera.report.tables import FIGURE_COLUMNS
from realera.settings.errors import RealEraError
from tools import ablations

EXPERIMENTS = {"mn-1": (1, 1, 80, 10), "mn-2": (4, 1, 70, 5), "other": (9, 9, 1, 1)}
"""Name -> M, N, Acc_s, Acc_e."""


def row(name: str, m: float, n: float, kept: float, gone: float) -> dict[str, str]:
    metrics = {"cat.realera.Acc_s": str(kept), "cat.realera.Acc_e": str(gone)}
    return {"Experiment": name, "rev": f"rev-{name}", "sampler.M": str(m), "sampler.N": str(n), **metrics}


def table(kept: float, gone: float) -> str:
    """The figures.csv of an experiment; by another method they are others."""
    figures = {"Acc_s": kept, "Acc_e": gone, "Acc_g": 1.0, "H_o": 90.0, "unseen": 80.0}
    lines = [
        f"cat,{method},{metric},{reading},{model},{value + shift},{value + shift - 3},{value + shift + 4},9"
        for metric, value in figures.items()
        for reading in ablations.READINGS
        for method, shift in (("realera", 0), ("uce", 2))
        for model in ("base", "erased")
    ]
    return "\n".join([",".join(FIGURE_COLUMNS), *lines]) + "\n"


@pytest.fixture
def three(monkeypatch, tmp_path):
    """Three experiments, each with the table of figures that its commit has."""
    monkeypatch.setattr(ablations, "experiments", lambda: [row(name, *of) for name, of in EXPERIMENTS.items()])
    found = {}
    for name, (_, _, kept, gone) in EXPERIMENTS.items():
        (tmp_path / name).write_text(table(kept, gone))
        found[f"rev-{name}"] = read_figures(tmp_path / name)
    monkeypatch.setattr(ablations, "figures", found.__getitem__)


def test_table(three):
    done = CliRunner().invoke(ablations.app, ["table", "cat", "mn-2", "mn-1"])
    assert done.exit_code == 0
    assert "| mn-2 | probability | 5.0 [2.0, 9.0] | 70.0 [67.0, 74.0] |" in done.output
    assert done.output.index("mn-2") < done.output.index("mn-1")


def test_table_of_another_method(three):
    done = CliRunner().invoke(ablations.app, ["table", "cat", "mn-2", "--method", "uce"])
    assert done.exit_code == 0
    assert "| mn-2 | probability | 7.0 [4.0, 11.0] | 72.0 [69.0, 76.0] |" in done.output
    done = CliRunner().invoke(ablations.app, ["table", "dog", "mn-2"])
    assert done.exit_code == 1
    assert "error: mn-2: no figure Acc_e (probability) of dog by realera; the experiment failed" in done.output


def test_figures_are_read_from_the_experiments_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    author = ["-c", "user.name=tests", "-c", "user.email=tests"]
    (tmp_path / "reports").mkdir()
    for index, (_, _, kept, gone) in enumerate(EXPERIMENTS.values()):
        (tmp_path / "reports/figures.csv").write_text(table(kept, gone))
        commands = [["init", "--quiet"]] if index == 0 else []
        for command in [*commands, ["add", "."], ["commit", "--quiet", "-m", str(index)]]:
            subprocess.run(["git", *author, *command], check=True)
    ablations.figures.cache_clear()
    for revision, wanted in (("HEAD", 1), ("HEAD~1", 70), ("HEAD~2", 80)):
        assert ablations.figures(revision)["cat", "realera"]["erased"]["Acc_s"]["top1"]["value"] == wanted
    with pytest.raises(RealEraError, match=r"^git show nowhere:./reports/figures.csv: fatal: "):
        ablations.figures("nowhere")


def test_an_unknown_experiment_is_named(three):
    done = CliRunner().invoke(ablations.app, ["table", "cat", "mn-3"])
    assert done.exit_code == 1
    assert "no experiment 'mn-3'; accepted: mn-1, mn-2, other" in done.output


def test_surface_shows_each_setting_with_its_interval(three, tmp_path):
    out = tmp_path / "map.svg"
    arguments = ["surface", "cat", "sampler.M", "sampler.N", "--prefix", "mn-", "--out", str(out)]
    assert CliRunner().invoke(ablations.app, arguments).exit_code == 0
    texts = [element.text for element in ElementTree.parse(out).iter() if element.text and element.text.strip()]
    assert {"70.0", "65.0", "[65.0, 75.0]", "[60.0, 70.0]", "sampler.M"} <= set(texts)
    assert len(re.findall("<rect", out.read_text())) == 3  # background and two cells


def test_the_experiments_of_a_folder_without_dvc(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    done = CliRunner().invoke(ablations.app, ["table", "cat", "a"])
    assert done.exit_code == 1
    assert done.output.startswith("error: dvc exp show")
