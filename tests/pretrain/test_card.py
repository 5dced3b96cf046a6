"""The cards in data/models say what the evaluation stage measured."""

import json


def test_the_generators_card_has_the_evaluations_figures(tiny_sd, check_generator_card):
    check_generator_card(tiny_sd)


def test_the_judges_card_has_the_evaluations_figures(tiny_clip, check_judge_card):
    check_judge_card(tiny_clip)


def test_the_style_judges_card_has_its_evaluations_figures(tiny_style, check_style_judge_card):
    check_style_judge_card(tiny_style)


def test_the_generators_sheets_are_there(tiny_sd):
    card = (tiny_sd / "README.md").read_text(encoding="utf-8")
    for name in ("classes", "synonyms", "styles", "concepts", "vocabulary"):
        assert f"(sheets/{name}.png)" in card
        assert (tiny_sd / f"sheets/{name}.png").is_file()


def test_the_vocabulary_in_the_card_is_the_one_beside_it(tiny_sd):
    card = (tiny_sd / "README.md").read_text(encoding="utf-8")
    vocabulary = json.loads((tiny_sd / "vocabulary.json").read_text(encoding="utf-8"))
    assert f"draws {len(vocabulary['concepts'])} things" in card
