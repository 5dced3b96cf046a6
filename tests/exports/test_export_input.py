import resource
import signal

import numpy as np
import pytest
from PIL import Image

from realera.settings.config import load_params
from realera.settings.presets import load_preset
from tests.kit.erasure_project import PROMPTS

FORMATS = ["pipeline", "kv", "lora", "single-file"]


def test_force_replaces_an_earlier_export_only(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ["export", "airplane", "--format", "lora", "--out", out]
    assert run(*command).exit_code == 0  # an empty folder is welcome
    again = run(*command)
    assert again.exit_code == 1
    assert again.stderr == f"error: --out: found '{out}', which is not empty; accepted: a new folder, or --force\n"
    (out / "stray").touch()
    assert run(*command, "--force").exit_code == 0
    assert not (out / "stray").exists()
    (out / "README.md").write_text("my thesis")
    refused = run(*command, "--force")
    assert refused.stderr == f"error: --out: found '{out}', no earlier export; --force replaces only those\n"
    assert (out / "README.md").read_text() == "my thesis"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["airplan"], "error: concepts: found 'airplan'; accepted: airplane"),
        (["../airplane"], "error: concepts: found '../airplane'"),
        (
            ["bird"],
            "error: artifacts/bird/realera/erasure: not there yet; made by: dvc repro score@realera-bird, "
            "with bird among the concepts of params.yaml\n",
        ),
        (["airplane", "--params", "none.yaml"], "error: none.yaml: cannot be read"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, expected):
    result = run("export", *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(expected)
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["--format", "gguf"], ["--dtype", "int8"], ["--tolerance", "-1"]])
def test_bad_usage_exits_with_2(run, tmp_path, option):
    assert run("export", "airplane", "--out", tmp_path / "out", *option).exit_code == 2


def test_an_erasure_of_another_model_is_refused(run, tmp_path, workspace):
    text = (workspace / "params.yaml").read_text().replace("data/models/tiny-sd", "owner/another")
    (tmp_path / "params.yaml").write_text(text)
    result = run("export", "airplane", "--out", tmp_path / "out", "--params", tmp_path / "params.yaml")
    assert result.exit_code == 1
    assert "made for the model 'data/models/tiny-sd', found model.id 'owner/another'" in result.stderr


LOCK = """
schema: '2.0'
stages:
  encode@airplane:
    cmd: python stages/encode.py airplane
    params:
      data/concepts/airplane.yaml:
        anchors: [{anchor}]
  mine@bird:
    params: {{params.yaml: {{sampler: {{M: 99}}}}}}
  train@airplane:
    params:
      params.yaml:
        lora: {{rank: {rank}, learning_rate: '{rate!r}', targets: {targets}}}
        sampler.D1: {params.sampler.D1}
"""


@pytest.mark.parametrize(
    ("anchor", "more_rank", "expected"),
    [
        (None, 0, None),
        (None, 1, "error: params.yaml: lora.rank: found "),
        ("elsewhere", 0, "error: data/concepts/airplane.yaml: anchors: found "),
    ],
)
def test_a_card_never_names_other_parameters_than_those_used(run, tmp_path, workspace, anchor, more_rank, expected):
    params, anchors = load_params(), load_preset("airplane").anchors
    lock = LOCK.format(
        anchor=anchor or ", ".join(anchors),
        rank=params.lora.rank + more_rank,
        rate=params.lora.learning_rate,
        targets=list(params.lora.targets),
        params=params,
    )
    (workspace / "dvc.lock").write_text(lock)
    try:
        result = run("export", "airplane", "--format", "lora", "--out", tmp_path / "out")
    finally:
        (workspace / "dvc.lock").unlink()
    assert result.exit_code == (0 if expected is None else 1), result.output
    assert result.stderr.startswith(expected or "")
    assert (tmp_path / "out").exists() == (expected is None)


@pytest.mark.parametrize("name", ["erasure.json", "overlay.safetensors", "adapter/pytorch_lora_weights.safetensors"])
@pytest.mark.parametrize("format", FORMATS)
def test_corrupt_artifact_is_one_line(run, tmp_path, own, name, format):
    path = own.erasure / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        result = run("export", "airplane", "--format", format, "--out", tmp_path / "out")
    finally:
        path.write_bytes(content)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert name in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_large_files():
    """Let writing fail after 200 kB, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_leaves_nothing(run, tmp_path, no_large_files, format):
    result = run("export", "airplane", "--format", format, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "File too large" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_compare_puts_the_erased_image_below_the_base_one(run, tmp_path):
    options = ["--seed", "3", "--num", "2"]
    result = run("compare", PROMPTS[0], "--concept", "airplane", "--out", tmp_path / "pair.png", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'pair.png'}\n"
    assert run("draw", PROMPTS[0], "--out", tmp_path / "base.png", *options).exit_code == 0
    assert run("draw", PROMPTS[0], "--concept", "airplane", "--out", tmp_path / "new.png", *options).exit_code == 0
    pair, base, new = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("pair", "base", "new"))
    assert pair.shape == (128, 128, 3)
    assert (pair == np.concatenate([base, new])).all()
    assert abs(base - new).mean() > 3


@pytest.mark.parametrize("command", ["compare", "draw"])
def test_no_erasure_no_picture(run, tmp_path, command):
    result = run(command, "a cat", "--concept", "bird", "--out", tmp_path / "out.png")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: artifacts/bird/realera/erasure: not there yet")
    assert list(tmp_path.iterdir()) == []
