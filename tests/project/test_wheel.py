"""The wheel alone: no clone, no DVC, an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

WITHOUT_DVC = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dvc":
            raise ImportError("no dvc here")

sys.meta_path.insert(0, Refuse())
"""

OPEN = """
import sys
import realera
assert "torch" not in sys.modules
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained("model")
erasure = realera.read_erasure("erased")
before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
erasure.apply(pipe)
pipe("a photo of the airplane", num_inference_steps=2).images[0].save("image.png")
erasure.remove(pipe)
assert all((weight == before[name]).all() for name, weight in pipe.unet.state_dict().items())
print(erasure.about.pairs, realera.__file__)
"""


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    """Build it from a copy, so that nothing is left in the repository."""
    source, out = tmp_path_factory.mktemp("source") / "realera", tmp_path_factory.mktemp("wheel")
    shutil.copytree(repository / "realera", source / "realera", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(repository / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.check_call([*command, "--wheel-dir", str(out), str(source)])
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment of the wheel's own, which borrows the libraries of this one but not the project and not DVC."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    libraries = tmp_path_factory.mktemp("libraries")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "realera" not in path.name and path.suffix != ".pth":
            (libraries / path.name).symlink_to(path)
    (site / "libraries.pth").write_text(f"{libraries}\n")
    (site / "sitecustomize.py").write_text(WITHOUT_DVC)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.check_call([*command, str(wheel)])
    return folder / "bin/python"


def run(python, *arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HOME": str(cwd / "home"), "REALERA_SCRATCH": str(cwd / "scratch")}
    done = subprocess.run([str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_what_the_wheel_holds(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "defaults/params.yaml",
        "defaults/everyday.yaml",
        "defaults/templates.yaml",
        "defaults/recipes/sd15.yaml",
    ):
        assert f"realera/settings/{name}" in names
    assert "realera/report/templates/page.html" in names
    assert not [name for name in names if name.startswith(("stages", "tests", "pretrain"))]


def test_erase_open_draw_in_an_empty_folder(python, tiny_sd, tmp_path):
    shutil.copytree(tiny_sd, tmp_path / "model")
    command = ["-m", "realera.commands.cli", "erase", "--model", "model", "--target", "airplane", "--anchor", "sun"]
    small = ["lora.steps=4", "latents.num_images=2", "generate.num_inference_steps=4"]
    done = run(python, *command, *[word for pair in small for word in ("--set", pair)], "--out", "erased", cwd=tmp_path)
    assert "airplane -> sun, by realera" in done.stdout
    assert "realera.read_erasure('erased').apply(pipe)" in done.stdout
    assert "align:" in done.stderr  # progress
    opened = run(python, "-c", OPEN, cwd=tmp_path)
    assert "(('airplane', 'sun'),)" in opened.stdout
    assert str(python.parents[1]) in opened.stdout  # the wheel's own code
    assert {path.name for path in tmp_path.iterdir()} - {"home", "scratch"} == {"model", "erased", "image.png"}
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]


def test_an_erasure_without_a_vocabulary_keeps_everyday_nouns(python, tiny_sd, tmp_path):
    shutil.copytree(tiny_sd, tmp_path / "model", ignore=shutil.ignore_patterns("vocabulary.json"))
    command = ["-m", "realera.commands.cli", "erase", "--model", "model", "--target", "airplane", "--anchor", "sun"]
    done = run(python, *command, "--method", "uce", "--out", "erased", cwd=tmp_path)
    assert "by uce" in done.stdout


def test_doctor_asks_for_no_project(python, tmp_path):
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-m", "realera.commands.cli", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "realera erase" in done.stdout
    assert "dvc program" not in done.stdout
    named = subprocess.run([*command, "--params", "own.yaml"], cwd=tmp_path, env=environment, capture_output=True)
    assert named.returncode == 1
