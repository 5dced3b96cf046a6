"""An edit of a function that matters, room by room: which stages DVC then takes for changed."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.kit.dvc_repository import Repository

SOURCES = ["realera", "stages", "data", "params.yaml", "dvc.yaml", ".dvcignore", ".gitignore"]

REMEMBER = """
from dvc.repo import Repo

with Repo() as repo, repo.lock:
    for stage in repo.index.stages:
        stage.save(allow_missing=True, run_cache=False)
        stage.dump(update_pipeline=False)
"""
"""Write dvc.lock as a run would leave it, of the dependencies that are there: no stage needs to run for this test."""

DRAW = {"latents", "base", "originals", "generate"}
JUDGE = {"judge", "score"}
CHAIN = {"mine", "solve", "train"}
ALL = {
    "encode",
    "task",
    *CHAIN,
    "latents",
    "erase",
    "plan",
    "base",
    "originals",
    "judge",
    "generate",
    "score",
    "report",
}
OWN = {"task@realera-airplane", "erase@realera-airplane", *(f"{name}@airplane" for name in CHAIN)}

EDITS = {
    "settings/presets.py": ("return list(zip(self.targets, anchors", ALL),
    "store/artifacts.py": ("ROWS_PER_GROUP = 1024", ALL),
    "runtime/devices.py": ("return torch.float16 if", ALL - {"task", "plan", "report"}),
    "runtime/launch.py": ("_GRACE_SECONDS = 2.0", {"train", "base", "originals", "generate"}),
    "runtime/console.py": ("def describe(", set()),
    "text/spans.py": ("max(anchor.last - (target.last - token)", ALL),
    "text/vocabulary.py": ("return sorted({word", ALL),
    "families/cross_attention.py": ('MATRICES = ("to_k", "to_v")', {"encode", "task", *CHAIN, "erase", *DRAW}),
    "erasures/apply.py": (
        "_base(name, erasure, carried.own) + change",
        {"task", "solve", "train", "erase", *DRAW} - {"latents"},
    ),
    "drawing/batch.py": ('torch.Generator("cpu")', DRAW),
    "drawing/subjects.py": ("params.seed + index", DRAW | JUDGE | {"plan"}),
    "methods/common/closed_form.py": ("torch.cholesky_solve(B.T, factor).T", {"mine", "solve", "train", "erase"}),
    "methods/seam.py": ("used = {name:", {"task", "erase"}),
    "methods/realera/samples.py": ("ratio = np.divide", OWN),  # the anchor's tolerance
    "methods/realera/perturb.py": ("near = moved(chosen", OWN),
    "methods/uce/method.py": ("return 1.0 if params.reading", {"task@uce-airplane", "erase@uce-airplane"}),
    "judges/clip.py": ("def divide_probability(", JUDGE | {"report"}),
    "scores/statistics.py": ("def wilson_interval(", {"score", "report"}),
    "report/tables.py": ("_DIGITS = 4", {"report"}),
    "exports/singlefile.py": ("_WIDTH_OF_SD2 = 1024", set()),
    "commands/cli.py": ("def results(", set()),
}
"""File -> what is edited in it, and the stages that must run again: all instances, or where `@` stands just these."""


@pytest.fixture(scope="module")
def project(repository, tmp_path_factory):
    root, home = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("home")
    copy = Repository(root, repository, home, SOURCES)
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"methods": ["realera", "uce"]}, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-c", REMEMBER], cwd=root, env=copy.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return copy


def changed(project: Repository) -> set[str]:
    """Return the stages that DVC would run for what they depend on; outputs are all missing here."""
    status = json.loads(project.run("dvc", "status", "--json"))
    return {
        stage
        for stage, reports in status.items()
        for report in reports
        if isinstance(report, dict)
        for path, found in report.get("changed deps", {}).items()
        if path.startswith(("realera", "stages")) and found == "modified"
    }


def test_nothing_is_changed_before_an_edit(project):
    assert changed(project) == set()


def test_every_room_is_edited(repository):
    rooms = {path.name for path in (repository / "realera").iterdir() if (path / "__init__.py").is_file()}
    assert {name.partition("/")[0] for name in EDITS} == rooms


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_seen_by_the_stages_that_run_it(project, name):
    text, wanted = EDITS[name]
    path = project.root / "realera" / name
    before = path.read_text()
    assert before.count(text) >= 1
    path.write_text(before.replace(text, f"\\\n{text}", 1))  # a line more inside of the function
    try:
        found = changed(project)
    finally:
        path.write_text(before)
    if any("@" in stage for stage in wanted):
        assert found == wanted
    else:
        assert {stage.partition("@")[0] for stage in found} == wanted
