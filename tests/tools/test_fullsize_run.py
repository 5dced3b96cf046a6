"""The run at full size: what it copies and sets, and that its measure of memory and time is right."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from realera.settings.config import load_params
from realera.settings.presets import Preset
from realera.settings.yaml_file import load_yaml
from tools import run_fullsize

MEGABYTE = 10**6
ALLOCATE = "import time; block = b'1' * 300_000_000; time.sleep(0.2)"


@pytest.fixture
def measure(repository, tmp_path):
    def measure(code, stage=None):
        log = tmp_path / "log.jsonl"
        environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
        command = [sys.executable, repository / "tools/measure.py", log, sys.executable, "-c", code]
        done = subprocess.run(command, env=environment | ({"DVC_STAGE": stage} if stage else {}))
        return done.returncode, json.loads(log.read_text().splitlines()[-1])

    return measure


def test_peak_memory_and_seconds_are_the_commands(measure):
    code, empty = measure("")
    assert code == 0
    code, full = measure(ALLOCATE, "train@airplane")
    assert code == 0
    assert full["stage"] == "train@airplane"
    assert 295 * MEGABYTE < full["peak_bytes"] - empty["peak_bytes"] < 320 * MEGABYTE
    assert full["seconds"] >= 0.2
    assert empty["peak_bytes"] < 50 * MEGABYTE, "the peak is not that of whoever starts the command"


def test_a_failure_is_passed_on(measure):
    code, row = measure("import sys; sys.exit(3)")
    assert code == row["exit_code"] == 3
    assert measure("import os; os.kill(os.getpid(), 9)")[1]["exit_code"] == -9


def test_what_the_run_sets_is_accepted(tmp_path):
    project = run_fullsize.copy_project(tmp_path / "project")
    assert load_yaml(project / "data/concepts/fullsize.yaml", Preset).targets == ("airplane",)
    words = yaml.safe_load((project / "data/prompts/words.yaml").read_text())
    assert words.keys() > run_fullsize.WORDS.keys()
    apply_overrides(project / "params.yaml", [f"{key}={value}" for key, value in run_fullsize.SETTINGS.items()])
    params = load_params(project / "params.yaml")
    assert params.concepts == ("fullsize",)
    assert params.generate.num_processes == 1, "the peak is measured for one process"
    assert params.lora.steps == 2, "one step of either kind"
    assert params.lora.mixed_precision == "no"


def test_table():
    rows = [run_fullsize.Row("encode", 10.4, 19.6, 2**30), run_fullsize.Row("train", 20.2, 30.0, 3 * 2**29)]
    assert run_fullsize.table(rows).splitlines()[2:] == [
        "| encode | 10 | 20 | 1.0 |",
        "| train | 20 | 30 | 1.5 |",
        "| all | 31 | 50 | 1.5 |",
    ]


def test_the_page_s_table_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{run_fullsize.START}\nold\n{run_fullsize.END}\nafter\n")
    for text in ("first", "second"):
        run_fullsize.put_into(page, text)
    assert page.read_text() == f"before\n{run_fullsize.START}\nsecond\n{run_fullsize.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="accepted: a page with both"):
        run_fullsize.put_into(page, "third")
    assert page.read_text() == "no markers"


@pytest.mark.slow
def test_every_stage_is_run_and_measured(repository, tiny_sd, tmp_path):
    rows = run_fullsize.run(tmp_path, tiny_sd, [])
    graph = yaml.safe_load((repository / "dvc.yaml").read_text())
    assert sorted(row.stage for row in rows) == sorted(graph["stages"])
    assert all(row.seconds > 0 and row.peak_bytes > 10 * MEGABYTE for row in rows)
    params = load_params(tmp_path / "project/params.yaml")
    assert params.model.id == str(tiny_sd)
