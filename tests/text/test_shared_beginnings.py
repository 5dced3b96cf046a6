"""Names that begin alike: what a preserved prompt has, too, is not erased."""

import dataclasses

import pytest

from realera.settings.config import load_params
from realera.settings.presets import load_preset, preserved_words
from realera.text.encoding import encode_preset
from realera.text.prompt_table import SAME
from realera.text.vocabulary import read_concepts


def table_of(pipe, name, **draw):
    params = load_params().encode.model_copy(update={"num_templates": 5})
    preset = load_preset(name)
    return encode_preset(preset.model_copy(update=draw), params, pipe, "the model")


@pytest.fixture(scope="module")
def fire_engine(pipe):
    return table_of(pipe, "fire-engine")


def test_the_first_token_of_the_longer_name_is_found_in_every_template(fire_engine):
    targets = [i for i, prompt in enumerate(fire_engine.prompts) if prompt.role == "target"]
    assert set(fire_engine.shared) == {(i, fire_engine.tokens[i].first) for i in targets}
    for (prompt, token), kept in fire_engine.shared.items():
        assert fire_engine.prompts[kept].text == fire_engine.prompts[prompt].text.replace("fire engine", "fire")
        own, other = fire_engine.embeddings[prompt, token], fire_engine.embeddings[kept, token]
        assert (own - other).norm() <= SAME * own.norm()


@pytest.mark.parametrize("span", ["concept", "concept_to_eot", "concept_to_end"])
def test_it_is_not_among_the_tokens_to_erase_and_all_others_are(fire_engine, span):
    for pair in fire_engine.pairs(span):
        own = fire_engine.tokens[pair.target_id]
        first = pair.tokens[0][0]
        assert first == own.last == own.first + 1
        assert len(pair.tokens) == {"concept": 1, "concept_to_eot": own.num_tokens - own.last}.get(span, 77 - own.last)


def test_it_is_said(fire_engine):
    (found,) = fire_engine.not_erased()
    assert found[:3] == ("fire engine", 5, 5)
    assert found.preserved[0] == "a photo of the fire"
    assert len(found.preserved) == 3
    assert (
        "'fire engine': in 5 of its prompts the name has vectors that preserved prompts have, too" in found.sentence()
    )


def test_vectors_count_and_not_words(fire_engine):
    """As with a text encoder that is not causal: the same word, another vector."""
    moved = fire_engine.embeddings.clone()
    kept = [i for i, prompt in enumerate(fire_engine.prompts) if prompt.role == "preserve"]
    moved[kept] *= 1.01
    other = dataclasses.replace(fire_engine, embeddings=moved)
    assert not other.shared
    assert [len(pair.tokens) for pair in other.pairs("concept")] == [2] * 5


def test_the_shorter_name_is_erased_by_what_follows_it(pipe):
    table = table_of(pipe, "fire")
    assert {token for _, token in table.shared} == {table.tokens[0].last}
    assert all(pair.tokens[0][0] == table.tokens[pair.target_id].last + 1 for pair in table.pairs("concept_to_end"))
    # and where nothing follows, by its own token: something must be erased
    assert [[own for own, _ in pair.tokens] for pair in table.pairs("concept")] == [
        [table.tokens[pair.target_id].last] for pair in table.pairs("concept")
    ]


def test_a_name_that_is_not_preserved_is_not_kept(pipe):
    judged = load_preset("fire-engine").draw.model_copy(update={"lookalikes": ("fire",)})
    assert not table_of(pipe, "fire-engine", draw=judged).shared


def test_other_concepts_have_the_prompts_that_they_had(pipe):
    table = table_of(pipe, "airplane")
    assert not table.shared
    assert not table.not_erased()
    kept = [prompt.text for prompt in table.prompts if prompt.role == "preserve"]
    assert (
        len(kept)
        == len(set(kept))
        == len(preserved_words(load_preset("airplane"), read_concepts("data/models/tiny-sd"))) + 1
    )


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:'fire engine'")
def test_the_shorter_name_is_still_drawn_when_the_longer_one_is_erased(pipe, judge):
    import realera
    from realera.drawing.batch import draw
    from realera.judges.clip import class_probabilities

    labels = ["fire", "fire engine", "door", "cat", "house", "bus", "candle", "rocket"]
    texts = [f"a photo of the {word}" for word in labels]
    erasure = realera.erase(pipe, "fire engine", "door", settings={"lora.steps": 0}, progress=False)

    def share(word: str) -> float:
        pictures = list(draw(pipe, [f"a photo of the {word}"] * 8, range(8), 20, 5.0))
        best = class_probabilities(*judge, pictures, texts).argmax(-1)
        return float((best == labels.index(word)).mean())

    erasure.apply(pipe)
    try:
        kept, left = share("fire"), share("fire engine")
    finally:
        erasure.remove(pipe)
    assert kept >= 0.75  # 0 where its vector is erased, too
    assert left <= 0.25
