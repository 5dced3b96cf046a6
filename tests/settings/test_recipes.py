"""What ships for those without a project, and recipes: what differs from params.yaml."""

import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from realera.commands.front import read_settings, recipe_options
from realera.settings.config import load_params
from realera.settings.errors import ConfigError
from realera.settings.presets import Preserve, load_preset, load_words, preserved_words
from realera.settings.recipes import DEFAULTS, flat, merged, read_recipe, recipe_names


def test_what_ships_is_what_the_project_has(repository):
    assert (DEFAULTS / "params.yaml").read_bytes() == (repository / "params.yaml").read_bytes()
    assert (DEFAULTS / "templates.yaml").read_bytes() == (repository / "data/prompts/templates.yaml").read_bytes()


def test_everyday_nouns_are_a_list_for_presets_and_pages_count_them(repository):
    preset = load_preset("airplane")
    preset = preset.model_copy(update={"preserve": Preserve(lists=("everyday",), texts=("",), words=("zeppelin",))})
    kept = preserved_words(preset, ())
    assert kept[-1] == "zeppelin"
    assert "airplane" not in kept
    assert set(kept[:-1]) <= set(load_words("everyday"))
    for page in ("docs/python.md", "docs/presets.md"):
        assert f"{len(load_words('everyday'))} everyday nouns" in (repository / page).read_text(encoding="utf-8")


def test_tiny_is_the_projects_own_setting(repository):
    assert merged(read_recipe("tiny"), "tiny") == load_params(repository / "params.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_dvc_takes_a_recipe_as_options(name, repository, tmp_path):
    from dvc.utils.hydra import apply_overrides  # what `dvc exp run -S` does to params.yaml

    path = shutil.copy(repository / "params.yaml", tmp_path)
    words = recipe_options(name).split()
    assert words[::2] == ["-S"] * (len(words) // 2)
    apply_overrides(path, words[1::2])
    assert load_params(path) == merged(read_recipe(name), name)


def test_the_papers_settings_are_those_of_sd15():
    params = merged(read_recipe("sd15"), "sd15", {"lora.rank": 4})
    assert (params.lora.steps, params.lora.learning_rate, params.lora.rank) == (200, 1e-5, 4)
    assert (params.generate.num_inference_steps, params.generate.guidance_scale) == (50, 7.5)
    assert params.sampler == load_params().sampler


def test_a_file_is_a_recipe_and_its_slips_are_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("lora: {steps: 7}\n")
    assert dict(flat(read_recipe(path))) == {"lora.steps": 7}
    path.write_text("lora: {stepz: 7}\n")
    with pytest.raises(ConfigError, match=rf"{path}: lora.stepz: unknown key"):
        read_recipe(path)


@given(st.floats(1e-12, 1e12), st.sampled_from(["no", "fp16"]), st.booleans(), st.text("abc/-_.:1", min_size=2))
def test_any_value_arrives_as_it_is(tmp_path_factory, number, word, truth, id):
    from dvc.utils.hydra import apply_overrides

    folder = tmp_path_factory.mktemp("recipe")
    values = {
        "model": {"id": f"m{id}"},
        "lora": {"learning_rate": number, "mixed_precision": word, "targets": ["to_k"]},
        "solver": {"enabled": truth},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(values))
    path = shutil.copy(DEFAULTS / "params.yaml", folder)
    apply_overrides(path, recipe_options(folder / "own.yaml").split()[1::2])
    assert load_params(path) == merged(values, "own")


@pytest.mark.parametrize("id", ["my models/sd", "$HOME/sd", "a,b", ""])
def test_a_value_that_a_shell_would_take_apart_is_refused(tmp_path, id):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"judge": {"id": id or "'"}}))
    with pytest.raises(ConfigError, match=r"recipe: judge.id: found"):
        recipe_options(tmp_path / "own.yaml")


@pytest.mark.parametrize("pair", ["lora.steps", "=3", "lora.steps=[1"])
def test_a_setting_is_key_and_value(pair):
    with pytest.raises(ConfigError, match=r"found|not YAML"):
        read_settings([pair])


@given(st.dictionaries(st.sampled_from(["lora.steps", "latents.seed", "sampler.M"]), st.integers(0, 1000), min_size=1))
def test_settings_arrive_where_they_belong(values):
    params = merged({}, "", values).model_dump()
    for key, value in values.items():
        section, name = key.split(".")
        assert params[section][name] == value
    pairs = [f"{key}={yaml.safe_dump(value).split()[0]}" for key, value in values.items()]
    assert read_settings(pairs) == values
