"""The versions that most tools of this field pin open our folders with stock code, and draw the same pictures."""

import os
import subprocess
import sys

import numpy as np
import pytest

OLD = ("diffusers==0.30.3", "transformers==4.44.2", "huggingface_hub==0.25.2", "tokenizers==0.19.1")
"""The latter two are the newest that the first two accept; the rest is the running environment's, torch too."""

SCRIPT = "tests/kit/stock.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old_packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *OLD]
    subprocess.run(command, check=True)
    return folder


def seen(repository, packages, out, *folders):
    """Run the stock code with the packages of a folder before the environment's."""
    path = {"PYTHONPATH": str(packages)} if packages else {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | path
    done = subprocess.run(
        [sys.executable, repository / SCRIPT, out, *folders],
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


def test_old_and_present_versions_draw_and_judge_alike(old_packages, repository, run, tmp_path, tiny_sd, tiny_clip):
    exports = [tmp_path / dtype for dtype in ("float32", "float16")]
    for out in exports:
        assert run("export", "airplane", "--dtype", out.name, "--out", out).exit_code == 0
    folders = [tiny_clip, tiny_sd, *exports]
    present = seen(repository, None, tmp_path / "present.npz", *folders)
    old = seen(repository, old_packages, tmp_path / "old.npz", *folders)
    assert [
        f"{name}=={version}" for name, version in zip(("diffusers", "transformers"), old["versions"], strict=True)
    ] == list(OLD[:2])
    assert list(old["versions"]) != list(present["versions"])
    difference = abs(present["images"].astype(int) - old["images"].astype(int))
    assert difference.max() <= 1  # of 255
    assert abs(present["images"][0].astype(int) - present["images"][1]).max() > 50  # the erasure shows
    assert abs(present["probabilities"] - old["probabilities"]).max() < 1e-5
