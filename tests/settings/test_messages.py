"""What a value was taken for, and how it is written: messages that save a second try."""

import pytest
import yaml

from realera.settings.config import load_params
from realera.settings.errors import ConfigError
from realera.settings.presets import Preset
from tests.kit.stage_project import PRESET


@pytest.fixture
def message(tmp_path, repository):
    content = yaml.safe_load((repository / "params.yaml").read_text())

    def of(section, values):
        changed = content | ({section: content[section] | values} if section else values)
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
        with pytest.raises(ConfigError) as caught:
            load_params(tmp_path / "params.yaml")
        return str(caught.value).partition("params.yaml: ")[2]

    return of


@pytest.mark.parametrize(("value", "text"), [(3959300000.0, "39593e5"), (1234567, "1234567")])
def test_a_commit_that_is_a_number_to_yaml(message, value, text):
    said = message("model", {"revision": value})
    assert said.startswith(f"model.revision: found {value}; accepted: string; text that looks like a number stands")
    assert said.endswith(f'model.revision: "{text}", as -S \'model.revision="{text}"\'')


def test_a_truth_value_is_no_number(message):
    assert message("model", {"revision": True}) == "model.revision: found true; accepted: string"


def test_one_name_for_a_list(message):
    said = message("", {"concepts": "airplane"})
    assert said == "concepts: found \"airplane\"; accepted: array, such as [airplane], with -S 'concepts=[airplane]'"
    assert message("", {"concepts": "air]plane"}) == 'concepts: found "air]plane"; accepted: array'


@pytest.mark.parametrize(("section", "values"), [("generate", {"seed": 2**32 - 4}), ("latents", {"seed": 2**32 - 7})])
def test_seeds_that_would_repeat_others(message, section, values):
    said = message(section, values)
    assert said.startswith(f"{section}: found ")
    assert "accepted: seed of at most 42949672" in said


def test_names_for_the_judges_are_of_targets():
    with pytest.raises(ValueError, match=r"names of the targets \['airplane'\], found some of \['plane'\]"):
        Preset.model_validate(PRESET | {"judged": {"names": {"plane": "jet"}}})
    with pytest.raises(ValueError, match="names"):
        Preset.model_validate(PRESET | {"judged": {"names": {"airplane": " "}}})
    assert Preset.model_validate(PRESET | {"judged": {"names": {"airplane": "jet"}}}).called("airplane") == "jet"
