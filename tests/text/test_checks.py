"""What a preset names that is not there is said by doctor and by the first stages, with the key."""

import subprocess
import sys

import pytest
import yaml

from realera.settings.config import load_params
from realera.settings.errors import ConfigError
from realera.settings.presets import Preset, as_read, distinct, load_preset
from realera.text.checks import check_preset, problems
from stages import encode, generate, latents, plan, task
from tests.kit import stage_project
from tests.text.test_prompt_files import DATA

ROOTS = {
    "encode": lambda: encode.main("airplane"),
    "task": lambda: task.main("realera", "airplane"),
    "plan": plan.main,
    "latents": lambda: latents.main("airplane"),
    "originals": lambda: generate.main(generate.What.originals, "airplane", ""),
}
"""Stages that need no other: one of them is the first that works."""


@pytest.fixture
def project(tmp_path, repository, monkeypatch):
    stage_project.write_project(tmp_path, repository)
    monkeypatch.chdir(tmp_path)

    def change(section: str = "", **values: object) -> None:
        path = tmp_path / "data/concepts/airplane.yaml"
        content = yaml.safe_load(path.read_text())
        (content[section] if section else content).update(values)
        path.write_text(yaml.safe_dump(content))

    return change


def found(tokenizer=None) -> list[str]:
    return list(problems(load_preset("airplane"), load_params(), tokenizer))


WRONG = [
    ("", {"classes": "CIFAR10"}, "classes: data/prompts/words.yaml: no list 'CIFAR10'; accepted: few, unseen"),
    ("", {"templates": "Object"}, "templates: data/prompts/templates.yaml: no list 'Object'; accepted: "),
    ("draw", {"unseen": "nothing"}, "draw.unseen: data/prompts/words.yaml: no list 'nothing'"),
    ("preserve", {"lists": ["few", "many"]}, "preserve.lists: data/prompts/words.yaml: no list 'many'"),
    ("draw", {"prompt_files": ["i2p"]}, "draw.prompt_files: found 'i2p', but no data/prompt_files/i2p.csv"),
    ("judged", {"by": ["identity"]}, "judged.by: found identity, but judge.identity is null in params.yaml"),
    (
        "",
        {"targets": ["Airplane"], "synonyms": {}},
        "classes: found 'airplane', which is 'Airplane' to the text encoder",
    ),
    ("", {"anchors": ["CAT"]}, "classes: found 'cat', which is 'CAT' to the text encoder; accepted: one spelling"),
    ("", {"targets": ["airplane", "cat"]}, "classes: found airplane, cat; accepted: a list with words beside"),
    ("draw", {"unseen": ["Plane"]}, "draw.unseen: found 'Plane', a synonym, which must fade"),
]


@pytest.mark.parametrize(("section", "values", "message"), WRONG)
def test_doctor_and_the_first_stages_say_it(project, section, values, message):
    project(section, **values)
    assert [problem for problem in found() if problem.startswith(message)] == found() != []


@pytest.mark.parametrize("stage", ROOTS)
def test_every_stage_that_may_be_the_first_refuses(project, stage, capsys, tmp_path):
    project(classes="CIFAR10")
    with pytest.raises(SystemExit):
        ROOTS[stage]()
    assert "error: data/concepts/airplane.yaml: classes: " in capsys.readouterr().err
    assert not (tmp_path / "artifacts").exists()


def test_every_problem_is_a_line(project):
    project(classes="CIFAR10", templates="Object")
    project("judged", by=["identity", "nudenet"])
    with pytest.raises(ConfigError) as caught:
        check_preset("airplane", load_preset("airplane"), load_params())
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("data/concepts/airplane.yaml: ") for line in lines)


def test_a_bad_row_of_a_prompt_file_is_said_at_once(project, tmp_path):
    (tmp_path / "data/prompt_files").mkdir()
    (tmp_path / "data/prompt_files/ragged.csv").write_bytes((DATA / "ragged.csv").read_bytes())
    project("draw", prompt_files=["ragged"])
    (problem,) = found()
    assert "ragged.csv, line 3: found 5 cells" in problem


def test_too_few_templates(project, tmp_path):
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["encode"]["num_templates"] = 900
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (problem,) = found()
    assert problem.startswith("encode.num_templates: found 900; the list 'object' has ")


def test_text_that_the_model_does_not_read_to_its_end(project, pipe, capsys):
    project("draw", associated={"airplane": ["a jet " * 40, "a jet"]}, lookalikes=["kite " * 90])
    texts = found(pipe.tokenizer)
    assert len(texts) == 2
    assert texts[0].startswith("draw.prompts: found 'a photo of the kite kite")
    assert texts[1].startswith("draw.associated: found 'a jet a jet ")
    assert texts[1].endswith("82 tokens with start and end; accepted: 77, what the model reads")
    with pytest.raises(SystemExit):
        encode.main("airplane")
    assert "draw.associated: found" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["airplane", "cat-and-dog", "hundred", "fire-engine", "streamline-style", "van-gogh"])
def test_presets_of_the_project_have_no_problem(name, pipe):
    assert not list(problems(load_preset(name), load_params(), pipe.tokenizer))


def test_doctor_lists_them(project, tmp_path):
    project(classes="CIFAR10", templates="Object")
    command = [sys.executable, "-m", "realera.commands.cli", "doctor"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("MISSING concept airplane")]
    assert len(lines) == 2


# --- names as the tokenizer reads them ---

PRESET = stage_project.PRESET


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchors": ["Airplane"]}, r"anchors that are not targets themselves, found \['Airplane'\]"),
        ({"anchors": [" airplane  "]}, "anchors that are not targets"),
        ({"targets": ["fire engine", "Fire  Engine"], "synonyms": {}}, "targets without repeats, found 'Fire  Engine'"),
        ({"synonyms": {"airplane": ["plane", "Plane "]}}, "words without repeats, found 'Plane ' again"),
        ({"synonyms": {"airplane": ["AIRPLANE"]}}, r"synonyms that are not targets themselves, found \['AIRPLANE'\]"),
        ({"draw": {"lookalikes": ["Plane"]}}, r"lookalikes that are no targets or synonyms, found \['Plane'\]"),
        ({"draw": {"lookalikes": ["kite", "Kite"]}}, "words without repeats"),
        ({"draw": {"unseen": ["kite", "kite "]}}, "words without repeats"),
        ({"targets": ["cafe\u0301", "caf\u00e9"], "synonyms": {}}, "targets without repeats"),
    ],
)
def test_one_name_in_two_spellings_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Preset.model_validate(PRESET | changes)


def test_a_list_with_one_word_in_two_spellings(project, tmp_path):
    words = {"few": ["airplane", "cat", "Cat "], "unseen": ["cactus"]}
    (tmp_path / "data/prompts/words.yaml").write_text(yaml.safe_dump(words))
    with pytest.raises(ConfigError, match="few: words without repeats, found 'Cat ' again"):
        check_preset("airplane", load_preset("airplane"), load_params())


@pytest.mark.parametrize("word", ["Airplane", "airplane ", "fire  engine", "CAFE\u0301", "\u212bngstrom", "a\u00a0b"])
def test_what_is_read_alike_has_the_same_tokens(pipe, word):
    assert pipe.tokenizer(word)["input_ids"] == pipe.tokenizer(as_read(word))["input_ids"]


def test_of_several_spellings_the_first_stays_in_its_place():
    assert distinct(["cat", "dog", "Cat", "bird", "dog ", "CAT"]) == ["cat", "dog", "bird"]


@pytest.mark.parametrize("word", ["airplane ", "Airplane", "air  plane"])
def test_a_target_is_not_preserved_however_it_is_spelled(word):
    from realera.settings.presets import preserved_words

    preset = Preset.model_validate(
        PRESET | {"targets": ["airplane", "air plane"], "anchors": ["rainbow"], "preserve": {"lists": [], "texts": []}}
    )
    kept = preset.preserve.model_copy(update={"words": (word, "Cat", "cat")})
    assert preserved_words(preset.model_copy(update={"preserve": kept}), ()) == ["Cat"]
