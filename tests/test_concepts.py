"""Presets and word lists: what the project ships, and what users may get wrong."""

import shutil
from pathlib import Path

import pytest
import yaml

from realera import concepts
from realera.concepts import Preset, load_preset, load_templates, load_words, preserved_words
from realera.errors import ConfigError
from realera.text import read_concepts

SHIPPED = sorted(path.stem for path in Path("data/concepts").glob("*.yaml"))


@pytest.fixture
def project(tmp_path, repository, monkeypatch):
    """A copy of the preset files in an own working folder, free to be spoiled."""
    for name in ("concepts", "prompts"):
        shutil.copytree(repository / "data" / name, tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(project: Path, **values) -> None:
    path = project / "data/concepts/airplane.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def test_twenty_presets_are_shipped():
    assert set(load_words("cifar10")) <= {name for preset in SHIPPED for name in load_preset(preset).targets}
    assert set(load_words("objects10")) <= {name for preset in SHIPPED for name in load_preset(preset).targets}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_presets_fit_the_embedded_model(name, tiny_sd):
    preset, vocabulary = load_preset(name), read_concepts(tiny_sd)
    assert set(preset.targets) | set(preset.anchors) | set(load_words(preset.unseen)) <= set(vocabulary)
    assert set(preset.targets) <= set(load_words(preset.classes))
    assert not set(preset.anchors) & set(load_words(preset.unseen))
    kept = preserved_words(preset, vocabulary)
    judged = {*preset.targets, *preset.all_synonyms(), *load_words(preset.unseen)}
    assert not set(kept) & judged
    if preset.preserve.lists:  # none in the preset that follows the paper to the letter
        assert set(load_words(preset.classes)) - judged <= set(kept)
    assert len(load_templates(preset.templates)) >= 30


def test_several_targets_share_one_anchor_or_have_their_own():
    preset = load_preset("airplane").model_dump()
    one = Preset.model_validate(preset | {"targets": ["cat", "dog"], "anchors": ["door"], "synonyms": {}})
    assert one.pairs() == [("cat", "door"), ("dog", "door")]
    two = Preset.model_validate(preset | {"targets": ["cat", "dog"], "anchors": ["door", "moon"], "synonyms": {}})
    assert two.pairs() == [("cat", "door"), ("dog", "moon")]


@pytest.mark.parametrize("name", ["../airplane", "/etc/passwd", "Air Plane", "", ".hidden", "a/b"])
def test_a_name_that_would_leave_the_folder(name):
    with pytest.raises(ConfigError, match=r"concepts: found .*accepted: names of files in data/concepts"):
        load_preset(name)


def test_an_unknown_concept_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"found 'aeroplane'; accepted: airplane, automobile"):
        load_preset("aeroplane")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"anchors": []}, r"airplane.yaml: anchors: found \[\]"),
        ({"targets": []}, r"airplane.yaml: targets: found \[\]"),
        ({"anchors": ["moon", "sun"]}, r"one anchor, or one for each of the 1 targets"),
        ({"anchors": ["airplane"]}, r"anchors that are not targets themselves, found \['airplane'\]"),
        ({"anchors": [" "]}, r"anchors: found .*words that are not blank"),
        ({"targets": ["cat", "cat"]}, r"targets without repeats"),
        ({"synonyms": {"car": ["auto"]}}, r"synonyms of the targets \['airplane'\], found some of \['car'\]"),
        ({"anchor": "moon"}, r"airplane.yaml: anchor: unknown key; did you mean anchors"),
        ({"targets": "airplane"}, r"airplane.yaml: targets: found \"airplane\""),
        ({"task": "paint"}, r"airplane.yaml: task: found \"paint\""),
    ],
)
def test_bad_presets(project, values, problem):
    change(project, **values)
    with pytest.raises(ConfigError, match=problem):
        load_preset("airplane")


def test_unknown_lists_are_named(project):
    with pytest.raises(ConfigError, match=r"words.yaml: no list 'cifar100'; accepted: cifar10, objects10, unseen"):
        load_words("cifar100")
    with pytest.raises(ConfigError, match=r"templates.yaml: no list 'face'; accepted: object"):
        load_templates("face")


def test_the_vocabulary_list_is_the_models():
    assert load_words(concepts.VOCABULARY, ["a", "b"]) == ("a", "b")
