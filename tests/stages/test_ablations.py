"""Tables and maps of experiments, from real `dvc exp show --csv` text."""

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from tools import ablations


def row(name: str, m: float, n: float, kept: float, gone: float) -> dict[str, str]:
    figures = {"Acc_s": kept, "Acc_e": gone, "Acc_g": 1.0, "H_o": 90.0, "unseen": 80.0}
    cells = {
        f"cat.{metric}.{reading}.erased{end}": str(value + shift)
        for metric, value in figures.items()
        for reading in ablations.READINGS
        for end, shift in (("", 0), (".low", -3), (".high", 4))
    }
    return {"Experiment": name, "sampler.M": str(m), "sampler.N": str(n), **cells}


@pytest.fixture
def three(monkeypatch):
    found = [row("mn-1", 1, 1, 80, 10), row("mn-2", 4, 1, 70, 5), row("other", 9, 9, 1, 1)]
    monkeypatch.setattr(ablations, "experiments", lambda: found)


def test_table(three):
    done = CliRunner().invoke(ablations.app, ["table", "cat", "mn-2", "mn-1"])
    assert done.exit_code == 0
    assert "| mn-2 | probability | 5.0 [2.0, 9.0] | 70.0 [67.0, 74.0] |" in done.output
    assert done.output.index("mn-2") < done.output.index("mn-1")


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
