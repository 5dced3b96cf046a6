"""What is installed is what the lock names, its licences are listed, and no run needs or tries a network."""

import os
import re
import sys
from collections import Counter
from importlib import metadata

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.kit.offline import guard, run, unaware, without_network
from tools import licences
from tools.run_fullsize import END, START

OF_CUDA = re.compile("nvidia|cuda|triton")
"""What a build of torch for CUDA asks for beside: its metadata say which versions."""

NOWHERE = "192.0.2.1"
"""An address that is kept for documentation."""

TRIES = [
    f"import socket; socket.create_connection(({NOWHERE!r}, 80), 5)",
    f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ({NOWHERE!r}, 53))",
    "import socket; socket.getaddrinfo('example.org', 80)",
    "import urllib.request; urllib.request.urlopen('http://example.org', timeout=5)",
]

IMPORT_ALL = """
import importlib.util, pathlib, pkgutil, sys
import realera, realera.commands.cli
for module in pkgutil.walk_packages(realera.__path__, "realera."):
    importlib.import_module(module.name)
for path in sorted(pathlib.Path("stages").glob("*.py")):
    spec = importlib.util.spec_from_file_location(f"stage_{path.stem}", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(len([name for name in sys.modules if name.startswith("realera.")]))
"""


DETECT = """
from PIL import Image
from realera.judges.nudenet import detect, open_detector
detect(open_detector(), [Image.new("RGB", (64, 64))])
"""

ASK_FOR_ONNX = """
import sys
from realera.families.stable_diffusion import open_pipeline
open_pipeline("data/models/tiny-sd", device="cpu")
print("onnxruntime" in sys.modules)
import diffusers
print(diffusers.OnnxRuntimeModel.__module__ == "diffusers.pipelines.onnx_utils")
"""


@pytest.fixture(scope="module")
def lock():
    """The lock's lines by name."""
    return {canonicalize_name(line.name): line for line in licences.read_lock()}


def test_each_requirement_is_pinned_once_to_an_exact_version(lock):
    lines = licences.read_lock()
    assert [name for name, count in Counter(canonicalize_name(line.name) for line in lines).items() if count > 1] == []
    for line in lines:
        (pin,) = line.specifier
        assert (pin.operator, str(Version(pin.version))) == ("==", pin.version), line
        assert [line.url, line.marker, line.extras] == [None, None, set()], line
    for part, requirements in licences.served().items():
        for wanted in requirements:
            (pin,) = lock[canonicalize_name(wanted.name)].specifier
            assert wanted.specifier.contains(pin.version), f"{part}: {wanted}"


def test_one_pin_of_torch_is_met_by_its_build_for_the_cpu_and_for_cuda(lock):
    (pin,) = lock["torch"].specifier
    assert Version(pin.version).local is None
    assert all(lock["torch"].specifier.contains(f"{pin.version}+{build}") for build in ("cpu", "cu130"))


def test_what_is_installed_is_what_the_lock_names(lock):
    found = {name: metadata.version(name) for name in lock}
    assert {name: found[name] for name, line in lock.items() if not line.specifier.contains(found[name])} == {}


def test_the_lock_is_all_that_is_needed_and_no_more(lock):
    """As `pip check`, and beyond: what a package asks for is in the lock, and what is in it is asked for."""
    broken, outside = [], []
    for line in lock.values():
        for needed in licences.needs(line):
            if not needed.specifier.contains(metadata.version(needed.name), prereleases=True):
                broken.append(f"{line.name} needs {needed}, found {metadata.version(needed.name)}")
            if canonicalize_name(needed.name) not in lock and not OF_CUDA.search(needed.name):
                outside.append(f"{line.name} needs {needed}")
    assert (broken, outside) == ([], [])
    asked = licences.reached(wanted for part in licences.served().values() for wanted in part)
    assert set(lock) - asked == set()


def test_the_page_lists_the_licences_of_what_the_lock_names(repository):
    page = (repository / "docs/dependencies.md").read_text(encoding="utf-8")
    assert page.partition(START)[2].partition(END)[0].strip() == licences.tables()


def test_the_notice_attributes_all_that_the_models_were_made_from(repository):
    notice = (repository / "NOTICE").read_text(encoding="utf-8")
    for card in licences.CARDS:
        assert card.relative_to(repository).as_posix() in notice
        for name, place, _ in licences.sources(card):
            assert name in notice
            assert place in notice


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("MIT", ""),
        ("Apache-2.0 OR GPL-2.0-or-later", ""),
        ("EPL-2.0 OR GPL-2.0-or-later", "its own files"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "its own files"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "its own files"),
        ("LGPL-2.1", "itself, if it can be replaced"),
        ("GPLv2 with linking exception", "itself, not what links to it"),
        ("MPL-2.0 AND AGPL-3.0-only", "the whole program"),
    ],
)
def test_copyleft_is_noticed(text, scope):
    assert licences.copyleft(text) == scope


@pytest.mark.parametrize("project", [".", "pretrain"])
def test_dvc_neither_reports_nor_looks_for_updates(repository, project):
    from dvc.config import Config

    core = Config.load_file(str(repository / project / ".dvc/config"))["core"]
    assert (core["analytics"], core["check_update"]) == ("false", "false")


def test_compiled_code_is_no_dependency(repository):
    """Python writes it into the folders that stages depend on, anew on each machine."""
    for folder in ("realera/metrics", "realera/report"):
        done = run(sys.executable, "-m", "dvc", "check-ignore", f"{folder}/__pycache__/module.pyc", cwd=repository)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def offline(tmp_path):
    return guard(tmp_path)


@pytest.mark.parametrize("code", TRIES)
def test_a_try_is_refused_and_noted(code, offline):
    environment, note = offline
    done = run(sys.executable, "-c", code, env=os.environ | environment)
    assert done.returncode == 1
    assert "no network here" in done.stderr
    assert len(note.read_text().splitlines()) == 1


def test_nothing_is_reached_without_interfaces():
    """Without the guard (-I): the namespace alone keeps a connection from being made."""
    if prefix := without_network():
        done = run(*prefix, sys.executable, "-I", "-c", TRIES[0])
        assert done.returncode == 1
        assert "unreachable" in done.stderr


@pytest.mark.slow
def test_no_import_opens_a_connection(repository, offline):
    environment, note = offline
    for arguments in (["-c", IMPORT_ALL], ["-m", "realera.commands.cli", "--help"]):
        command = [*without_network(), sys.executable, *arguments]
        done = run(*command, cwd=repository, env=unaware(os.environ | environment))
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert note.read_text() == ""


def test_drawing_and_detecting_leave_nothing_in_the_home_folder(repository, offline, tmp_path):
    environment, note = offline
    home = tmp_path / "home"
    home.mkdir()
    environment = unaware(os.environ | environment | {"HOME": str(home)})
    draw = [
        "-m",
        "realera.commands.cli",
        "draw",
        "a photo of a cat",
        "--steps",
        "1",
        "--out",
        str(tmp_path / "cat.png"),
    ]
    for arguments in (draw, ["-c", DETECT]):
        done = run(sys.executable, *arguments, cwd=repository, env=environment)
        assert done.returncode == 0, done.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert note.read_text() == ""


def test_onnxruntime_is_not_imported_to_draw_and_can_be_had_afterwards(repository):
    done = run(sys.executable, "-c", ASK_FOR_ONNX, cwd=repository)
    assert done.stdout.split() == ["False", "True"], done.stderr
