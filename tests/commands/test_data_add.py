"""`realera data add` as a user types it."""

import pytest
from typer.testing import CliRunner

from realera.commands.cli import app
from realera.settings.presets import PROMPT_FILES
from tests.text.test_prompt_files import DATA


@pytest.fixture
def add(tmp_path, monkeypatch):
    (tmp_path / PROMPT_FILES).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return lambda name, *arguments: CliRunner().invoke(app, ["data", "add", str(DATA / name), *arguments])


def test_the_benchmark_is_taken_with_its_blank_prompt(add):
    done = add("i2p_blank.csv")
    assert done.exit_code == 0
    assert done.stdout == f"{PROMPT_FILES / 'i2p.csv'}: 5 prompts (i2p)\n"
    assert done.stderr.startswith("warning: ")
    assert "1 blank prompt, drawn as it stands: case 2260 (line 3); in I2P's other public copy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bad_rows_are_left_out_by_choice(add, tmp_path):
    done = add("ragged.csv", "--kind", "coco", "--name", "own")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {DATA / 'ragged.csv'}, line 3: found 5 cells (quotes may be missing")
    assert done.stderr.endswith("--skip-bad-rows leaves such rows out\n")
    assert not list((tmp_path / PROMPT_FILES).iterdir())
    done = add("ragged.csv", "--kind", "coco", "--name", "own", "--skip-bad-rows")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{PROMPT_FILES / 'own.csv'}: 3 prompts (coco); 3 rows left out, the first: ")
    assert sorted(path.name for path in (tmp_path / PROMPT_FILES).iterdir()) == ["own.csv", "own.skipped.json"]


def test_another_kind(add):
    done = add("celebrities.csv", "--kind", "coco")
    assert done.exit_code == 1
    assert (
        "line 1: found the columns of kind list, not of coco; accepted: prompt alone, or another --kind" in done.stderr
    )
    assert add("celebrities.csv", "--kind", "laion").exit_code == 2
