import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from realera.commands.cli import app

FAST = ["--steps", "2", "--device", "cpu"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_draw_one_image(run, tiny_sd):
    result = run("draw", "a photo of a cat", "--out", "new/cat.png", *FAST)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{Path('new/cat.png')}\n"
    assert result.stderr == ""
    assert Image.open("new/cat.png").size == (64, 64)


def test_draw_a_grid_of_consecutive_seeds(run, tiny_sd):
    assert run("draw", "a cat", "--seed", "5", "--num", "3", *FAST).exit_code == 0
    assert run("draw", "a cat", "--seed", "6", "--out", "six.png", *FAST).exit_code == 0
    grid, six = (np.asarray(Image.open(name)).astype(int) for name in ("out.png", "six.png"))
    assert grid.shape == (64, 192, 3)
    assert abs(grid[:, 64:128] - six).max() <= 1


def test_unknown_word_is_named(run, tiny_sd):
    result = run("draw", "a xylographer", *FAST)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: 'a xylographer'")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [["draw"], ["compare", "--concept", "airplane"]])
@pytest.mark.parametrize("seed", ["4294967296", "18446744073709551616", "-1"])
def test_a_seed_that_would_repeat_another_one_s_noise_is_refused(run, tmp_path, command, seed):
    result = run(*command, "a cat", "--seed", seed)
    assert result.exit_code == 2
    assert "than or equal to" in result.stderr
    result = run(*command, "a cat", "--seed", "4294967295", "--num", "2")
    assert result.exit_code == 1
    assert (
        result.stderr == "error: --seed: found 4294967295 for 2 images; accepted: up to 4294967295 for the last one\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_greatest_seed_is_drawn(run):
    assert run("draw", "a cat", "--seed", "4294967295", *FAST).exit_code == 0


def test_words_beyond_the_last_token_are_named_once(run):
    result = run("draw", "a cat " * 37 + "and a photo of the airplane", *FAST)
    assert result.exit_code == 0
    assert result.stderr == "warning: the model reads 77 tokens; lost: 'a photo of the airplane'\n"
    assert run("draw", "a cat " * 37 + "and", *FAST).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "data/models/none"], "error: data/models/none: no such model"),
        (["--device", "gpu"], "error: device: found 'gpu'"),
        (["--dtype", "int8"], "error: dtype: found 'int8'"),
        (["--scheduler", "fast"], "error: scheduler: found 'fast'"),
        (["--out", "cat.jpg"], "error: --out: found 'cat.jpg'"),
        (["--params", "none.yaml"], "error: none.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(run, tiny_sd, tmp_path, arguments, expected):
    result = run("draw", "a cat", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(expected)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--num", "0"], ["--steps", "0"], ["--seed", "-1"], ["--nonsense"]])
def test_bad_usage_exits_with_2(run, arguments):
    assert run("draw", "a cat", *arguments).exit_code == 2


def test_corrupt_model_is_one_line_in_a_real_process(tmp_path, repository):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{")
    command = [sys.executable, "-m", "realera.commands.cli", "draw", "a cat", "--model", "model"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: model: cannot be loaded")


def test_help_does_not_wait_for_torch(repository):
    program = "import sys; from realera.commands.cli import app; assert not {'torch', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=repository, check=True)
