"""A preset from a CorefConcept file."""

import json

import pytest
from typer.testing import CliRunner

from realera.commands.cli import app
from realera.commands.coref import write_coref_preset
from realera.settings.errors import ArtifactError, ConfigError
from realera.settings.presets import CONCEPTS, load_preset
from tests.text.test_prompt_files import DATA

FILE = DATA / "coref.json"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Presets are written here; what is not here is found in the project."""
    (tmp_path / CONCEPTS).mkdir(parents=True)
    (tmp_path / CONCEPTS / "airplane.yaml").write_bytes((DATA.parents[1] / CONCEPTS / "airplane.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path / CONCEPTS


def spoiled(tmp_path, **changes):
    content = json.loads(FILE.read_text())
    content["object"][0] |= changes
    (tmp_path / "spoiled.json").write_text(json.dumps(content))
    return tmp_path / "spoiled.json"


def test_words_go_where_the_table_says_each_once(folder):
    path, taken = write_coref_preset(FILE, "Airplane")
    preset, own = load_preset("airplane-coref"), load_preset("airplane")
    assert path.resolve() == (folder / "airplane-coref.yaml").resolve()
    assert preset.synonyms == {"airplane": ("aeroplane", "jet plane", "biplane", "aircraft", "plane")}
    assert preset.draw.lookalikes == ("rocket", "kite")
    assert preset.draw.unseen == ("helicopter",)
    assert dict(taken.left_out) == {
        "Airplane": "it is the target",
        "aircraft": "it is in test-coref, too",
        "ship": "it is one of the classes cifar10",
        "kite": "it is in train-retain, too",
    }
    assert not preset.draw.associated
    same = ("targets", "anchors", "classes", "preserve", "templates", "task", "neighbors", "judged")
    assert all(getattr(preset, name) == getattr(own, name) for name in same)


def test_less_certain_words_are_left_out_and_a_missing_certainty_is_the_lowest():
    write_coref_preset(FILE, "airplane", least="high")
    preset = load_preset("airplane-coref")
    assert preset.synonyms == {"airplane": ("aeroplane", "jet plane", "aircraft")}  # not plane, which has none
    assert preset.draw.lookalikes == ("rocket",)


def test_a_concept_without_a_preset_takes_the_rest_from_another():
    with pytest.raises(ConfigError, match=r"like: a preset is needed .* found 'violin'; accepted: "):
        write_coref_preset(FILE, "violin")
    write_coref_preset(FILE, "violin", like="airplane", name="violin")
    preset = load_preset("violin")
    assert preset.pairs() == [("violin", "sun")]
    assert preset.synonyms == {"violin": ("fiddle",)}
    assert preset.draw.unseen == ("trumpet",)


def test_a_target_of_several_keeps_the_others(folder):
    (folder / "cat-and-dog.yaml").write_bytes((DATA.parents[1] / CONCEPTS / "cat-and-dog.yaml").read_bytes())
    file = spoiled(folder, concept="dog")
    write_coref_preset(file, "dog", like="cat-and-dog", name="both")
    preset = load_preset("both")
    assert preset.synonyms["cat"] == load_preset("cat-and-dog").synonyms["cat"]
    assert preset.synonyms["dog"][0] == "aeroplane"


def test_a_preset_is_not_replaced_unless_forced(folder):
    path, _ = write_coref_preset(FILE, "airplane")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="found a preset of this name; accepted: another name, or force"):
        write_coref_preset(FILE, "airplane", least="High")
    assert path.read_bytes() == before
    write_coref_preset(FILE, "airplane", least="High", force=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concept": None}, "concept 0: found no key `concept`"),
        ({"train-coref": "jet"}, "train-coref: found 'jet'; accepted: a list of words"),
        ({"train-coref": ["jet", 3]}, "accepted: a list of words"),
        ({"test-retain-certainty": ["High"] * 9}, "found 9; accepted: 3, as words"),
        ({"test-retain-certainty": ["Sure"]}, "found 'Sure'; accepted: Very Low, Low, Normal, High, Very High"),
    ],
)
def test_a_spoiled_file_is_named_with_the_key(tmp_path, changes, message):
    file = spoiled(tmp_path, **changes)
    with pytest.raises((ArtifactError, ConfigError)) as caught:
        write_coref_preset(file, "airplane")
    assert message in str(caught.value)
    assert not (tmp_path / CONCEPTS / "airplane-coref.yaml").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"object": []}'])
def test_a_file_without_concepts(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ArtifactError, match="found no list of concepts"):
        write_coref_preset(tmp_path / "x.json", "airplane")


def test_the_command_says_what_is_left_out():
    done = CliRunner().invoke(app, ["data", "preset", str(FILE), "--concept", "airplane"])
    assert done.exit_code == 0, done.output
    assert "left out 'ship': it is one of the classes cifar10" in done.output
    assert "3 train-coref, 2 test-coref, 2 train-retain, 1 test-retain" in done.output
    done = CliRunner().invoke(app, ["data", "preset", str(FILE), "--concept", "cow"])
    assert done.exit_code == 1
    assert "has airplane, violin" in done.output
