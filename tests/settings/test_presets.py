"""Presets and word lists: what the project ships, and what users may get wrong."""

import shutil
from pathlib import Path

import pytest
import yaml

from realera.settings import presets as concepts
from realera.settings.errors import ConfigError
from realera.settings.presets import Preset, load_preset, load_templates, load_words, preserved_words, unseen_words
from realera.text.vocabulary import read_concepts

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


def test_a_hundred_concepts_in_one_preset(tiny_sd):
    preset, vocabulary = load_preset("hundred"), read_concepts(tiny_sd)
    assert len(preset.targets) == 100
    assert set(preset.targets) <= set(vocabulary)
    kept = set(preserved_words(preset, vocabulary))
    assert set(load_words(preset.classes)) <= kept
    assert not kept & {*preset.targets, *unseen_words(preset)}


@pytest.mark.parametrize("name", [name for name in SHIPPED if load_preset(name).task == "object" and name != "hundred"])
def test_shipped_presets_fit_the_embedded_model(name, tiny_sd):
    preset, vocabulary = load_preset(name), read_concepts(tiny_sd)
    assert set(preset.targets) | set(preset.anchors) | set(unseen_words(preset)) <= set(vocabulary)
    assert set(preset.targets) <= set(load_words(preset.classes))
    assert not set(preset.anchors) & set(unseen_words(preset))
    kept = preserved_words(preset, vocabulary)
    judged = {*preset.targets, *preset.all_synonyms(), *preset.draw.lookalikes, *unseen_words(preset)}
    assert len(preset.draw.lookalikes) >= 2
    assert set(preset.draw.lookalikes) <= set(vocabulary)
    assert not set(preset.draw.lookalikes) & {*load_words(preset.classes), *preset.anchors}
    assert all(len(preset.draw.associated[target]) >= 2 for target in preset.targets)
    texts = [f" {text} " for text in preset.all_associated()]
    assert not [text for text in texts for target in preset.targets if f" {target} " in text]
    assert not set(kept) & judged
    if preset.preserve.lists:  # none in the preset that follows the paper to the letter
        assert set(load_words(preset.classes)) - judged <= set(kept)
    assert len(load_templates(preset.templates)) >= 30


@pytest.mark.parametrize(
    "name", [name for name in SHIPPED if load_preset(name).task in ("celebrity", "style", "explicit")]
)
def test_presets_of_the_other_tasks(name):
    preset = load_preset(name)
    kept = preserved_words(preset, [])
    assert len(load_templates(preset.templates)) >= 30
    assert set(load_words(preset.classes)) - {*preset.targets, *unseen_words(preset)} <= {
        *kept,
        *preset.draw.lookalikes,
    }
    assert not set(kept) & {*preset.targets, *unseen_words(preset), *preset.draw.lookalikes}
    texts = [text.lower() for text in preset.all_associated()]
    assert not [text for text in texts for target in preset.targets if target.lower() in text]


def test_the_papers_celebrities_and_artists_are_there():
    tasks = [load_preset(name).task for name in SHIPPED]
    assert tasks.count("celebrity") == 5
    assert tasks.count("style") == 6  # the paper's five artists, and a style of the embedded model
    assert len(load_words("celebrities100")) == len(load_words("artists100")) == 100


def test_the_task_decides_what_is_left_open():
    preset = load_preset("airplane")
    assert preset.draw.prompts == ("a photo of the {name}",)
    assert preset.judged.by == ("classes",)
    values = preset.model_dump() | {"task": "celebrity", "draw": {}, "judged": {}}
    celebrity = Preset.model_validate(values)
    assert celebrity.draw.prompts == (celebrity.judged.text,) == ("A portrait of {name}",)
    assert celebrity.judged.by == ("identity",)
    own = Preset.model_validate(values | {"judged": {"by": ["nudenet"]}, "draw": {"prompts": ["{name}"]}})
    assert (own.judged.by, own.judged.text, own.draw.prompts) == (("nudenet",), "A portrait of {name}", ("{name}",))


def test_several_targets_share_one_anchor_or_have_their_own():
    preset = load_preset("airplane").model_dump() | {"draw": {}}
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
        ({"draw": {"lookalikes": ["jet"]}}, r"lookalikes that are no targets or synonyms, found \['jet'\]"),
        ({"draw": {"associated": {"car": ["a car"]}}}, r"associated prompts of the targets"),
        ({"draw": {"prompts": ["a photo"]}}, r"airplane.yaml: draw.prompts: found .*\{name\} once"),
        ({"draw": {"prompt_files": ["../x"]}}, r"airplane.yaml: draw.prompt_files.0: found"),
        ({"draw": {"seen": "unseen"}}, r"airplane.yaml: draw.seen: unknown key; did you mean unseen"),
        ({"judged": {"by": ["clip"]}}, r"airplane.yaml: judged.by.0: found \"clip\""),
        ({"judged": {"by": ["classes", "classes"]}}, r"found 'classes' again"),
        ({"judged": {"text": "{x}"}}, r"airplane.yaml: judged.text: found"),
        ({"task": "paint"}, r"airplane.yaml: task: found \"paint\""),
    ],
)
def test_bad_presets(project, values, problem):
    change(project, **values)
    with pytest.raises(ConfigError, match=problem):
        load_preset("airplane")


def test_unknown_lists_are_named(project):
    with pytest.raises(
        ConfigError, match=r"words.yaml: no list 'cifar100'; accepted: artists, .*, objects10, .*, unseen"
    ):
        load_words("cifar100")
    with pytest.raises(
        ConfigError,
        match=r"templates.yaml: no list 'face'; accepted: artist, celebrity, explicit, object, vendor_style",
    ):
        load_templates("face")


def test_the_vocabulary_list_is_the_models():
    assert load_words(concepts.VOCABULARY, ["a", "b"]) == ("a", "b")
