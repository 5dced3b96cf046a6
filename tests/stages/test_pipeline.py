"""The erasure graph by `dvc repro`, on the embedded model with few images: what runs, what does not, what repeats."""

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from realera.settings.config import ImageCounts
from tests.kit.dvc_repository import Repository
from tests.kit.offline import guard, unaware, without_network

pytestmark = pytest.mark.slow

SOURCES = ["realera", "stages", "data", "params.yaml", "dvc.yaml", "dvc.lock", ".gitignore", "pyproject.toml"]
SMALL = {
    "encode": {"num_templates": 2},
    "sampler": {"M": 2, "N": 2},
    "latents": {"num_images": 2},
    "lora": {"steps": 2, "save_every": 1, "batch_size": 1},
    "generate": {"num_inference_steps": 2, "images": dict.fromkeys(ImageCounts.model_fields, 1)},
}
CHAIN = ["encode", "mine", "solve", "latents", "train", "originals", "judge"]
OF_A_METHOD = ["task", "erase", "generate", "score"]


def shrink(root: Path) -> None:
    """Few prompts, samples, steps and images; two of the classes and one unseen word."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    for section, values in SMALL.items():
        params[section] |= {key: value for key, value in values.items() if key != "images"}
    params["generate"]["images"] |= SMALL["generate"]["images"] | {"erase": 2}
    params["generate"]["num_processes"] = 1
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    words = root / "data/prompts/words.yaml"
    words.write_text(yaml.safe_dump({"cifar10": ["airplane", "cat", "dog"], "objects10": ["robot"], "unseen": ["fox"]}))


def set_param(repository: Repository, **values) -> None:
    path = repository.root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for key, value in values.items():
        section, _, name = key.partition("__")
        if name:
            params[section][name] = value
        else:
            params[section] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def names(ran: list[str]) -> list[str]:
    return sorted(stage.partition("@")[0] for stage in ran)


def of(concept: str, ran: list[str]) -> list[str]:
    """Return the stages that are of a concept, by whatever method."""
    return [stage for stage in ran if re.split("[@-]", stage)[-1] == concept]


def of_method(method: str, concepts: list[str]) -> set[str]:
    """Return the stages that a method of one stage has."""
    return {f"{stage}@{method}-{concept}" for stage in OF_A_METHOD for concept in concepts}


def hashes(root: Path) -> dict[str, list[str]]:
    """Every artifact's hash in dvc.lock."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return {name: [out["md5"] for out in stage.get("outs", [])] for name, stage in stages.items()}


@pytest.fixture(scope="module")
def new_repository(repository, tmp_path_factory):
    def make() -> Repository:
        root, home = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("home")
        copy = Repository(root, repository, home, SOURCES)
        shrink(root)
        return copy

    return make


@pytest.fixture(scope="module")
def project(new_repository):
    """The repository after its first run."""
    copy = new_repository()
    copy.first = copy.reproduce()
    return copy


def test_the_first_run_makes_everything(project):
    assert names(project.first.ran) == sorted([*CHAIN, *OF_A_METHOD, "plan", "base", "report"])
    images = pq.read_table(project.root / "artifacts/airplane/realera/images.parquet")
    words = {"airplane", "aircraft", "plane", "jet", "cat", "dog", "fox", "rocket", "helicopter", "flying saucer"}
    assert words <= set(images["word"].to_pylist())
    assert set(images["group"].to_pylist()) == {"erase", "synonym", "associated", "lookalike", "preserve", "unseen"}
    metrics = json.loads((project.root / "reports/metrics.json").read_text())
    assert {key.rpartition(".")[0] for key in metrics} == {"airplane.realera"}
    assert len(metrics) <= 7
    assert "<html" in (project.root / "reports/index.html").read_text()
    scratch = Path(project.environment["REALERA_SCRATCH"])
    assert [path for path in scratch.rglob("*") if path.is_file()] == []


def test_what_runs_again_and_what_comes_from_the_run_cache(project):
    """One test, because each step starts from the one before."""
    assert project.reproduce().ran == []
    before = hashes(project.root)

    set_param(project, sampler__M=3)
    again = ["erase", "generate", "score", "report"]
    assert names(project.reproduce().ran) == sorted(["mine", "solve", "train", *again])

    set_param(project, sampler__M=2)
    assert project.reproduce().ran == []
    assert hashes(project.root) == before

    set_param(project, solver__lambda1=0.2)
    assert names(project.reproduce().ran) == sorted(["solve", "train", *again])

    set_param(project, solver__lambda1=0.1, score__num_resamples=100, score__nudenet_threshold=0.5)
    airplane = project.root / "data/concepts/airplane.yaml"
    text = airplane.read_text()
    airplane.write_text(text.replace("judged: {}", "judged: {by: [classes, clip_score, nudenet, distance]}"))
    assert names(project.reproduce().ran) == ["judge", "plan", "report", "score"]  # no image is drawn again
    scores = json.loads((project.root / "artifacts/airplane/realera/scores.json").read_text())
    assert {"top1", "clip_score", "nudenet_boxes", "distance"} <= set(scores["readings"])
    airplane.write_text(text)

    set_param(project, score__num_resamples=2000, score__nudenet_threshold=0.6, concepts=["airplane", "cat"])
    ran = project.reproduce().ran
    assert set(of("cat", ran)) == {f"{stage}@cat" for stage in CHAIN} | of_method("realera", ["cat"])
    assert "base" not in ran  # the shared words are the same
    assert not of("airplane", ran)

    preset = project.root / "data/concepts/cat.yaml"
    preset.write_text(preset.read_text().replace("anchors: [", "anchors: [sun] #"))
    ran = project.reproduce().ran
    assert "encode@cat" in ran
    assert "generate@realera-cat" in ran
    assert "base" not in ran
    assert not of("airplane", ran)


def test_a_method_beside_another_runs_nothing_of_it_and_draws_no_original_again(project):
    """One test, because each step starts from the one before."""
    project.reproduce()
    before = hashes(project.root)
    concepts = yaml.safe_load((project.root / "params.yaml").read_text())["concepts"]
    own = of_method("uce", concepts)

    set_param(project, methods=["realera", "uce"])
    assert set(project.reproduce().ran) == own | {"report"}
    both = hashes(project.root)
    assert {name: both[name] for name in before if name != "report"} == {
        name: before[name] for name in before if name != "report"
    }
    metrics = json.loads((project.root / "reports/metrics.json").read_text())
    assert {f"{concept}.{method}.H_o" for concept in concepts for method in ("realera", "uce")} <= metrics.keys()
    with (project.root / "reports/figures.csv").open(encoding="utf-8", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"realera", "uce"}

    set_param(project, uce__lamb=0.7)
    assert set(project.reproduce().ran) == own | {"report"}
    after = hashes(project.root)
    changed = {name for name in after if after[name] != both[name]}
    assert {f"{stage}@uce-{concept}" for stage in ("task", "erase") for concept in concepts} <= changed
    assert changed <= own | {"report"}

    set_param(project, uce__lamb=0.5)
    assert project.reproduce().ran == []
    assert hashes(project.root) == both

    set_param(project, sampler__M=4)  # which nothing before has had: DVC would take it from its cache
    ran = project.reproduce().ran
    assert not [stage for stage in ran if "@uce" in stage]
    assert {f"erase@realera-{concept}" for concept in concepts} <= set(ran)

    set_param(project, sampler__M=2, methods=["realera"])
    assert set(project.reproduce().ran) <= {"report"}
    assert {name: values for name, values in hashes(project.root).items() if name in before} == before


def test_a_second_run_from_scratch_needs_no_network_and_gives_the_same_hashes(
    project, new_repository, repository, tmp_path
):
    again = new_repository()
    (again.root / ".dvc/config").write_bytes((repository / ".dvc/config").read_bytes())
    set_param(again, concepts=["airplane"])
    environment, connections = guard(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    again.environment = unaware(again.environment | environment | {"HOME": str(home)})
    output = again.run(*without_network(), "dvc", "repro")
    assert "Running stage 'report'" in output
    assert json.loads((again.root / "reports/metrics.json").read_text())
    assert connections.read_text() == ""
    left = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    assert left <= {(".cache", "realera")}, left  # nothing of the libraries', such as an id of the machine
    mine = hashes(again.root)
    theirs = hashes(project.root)
    for name in mine.keys() - {"report"}:  # theirs is of two concepts
        assert mine[name] == theirs[name], name
