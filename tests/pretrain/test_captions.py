import pytest

from pretrain.captions import CaptionSampler, article, check_lengths, fill, used_tokens
from pretrain.config import Vocabulary

# The synonyms of the paper's generality protocol.
SYNONYMS = {
    "airplane": ("aircraft", "plane", "jet"),
    "automobile": ("car", "vehicle", "motorcar"),
    "bird": ("avian", "fowl", "winged creature"),
    "cat": ("feline", "kitty", "housecat"),
    "deer": ("hart", "stag", "doe"),
    "dog": ("canine", "pooch", "hound"),
    "frog": ("amphibian", "anuran", "tadpole"),
    "horse": ("equine", "steed", "mount"),
    "ship": ("vessel", "boat", "watercraft"),
    "truck": ("lorry", "rig", "hauler"),
}


@pytest.fixture(scope="session")
def sampler(params, vocabulary) -> CaptionSampler:
    return CaptionSampler(params.caption, vocabulary.concepts())


@pytest.mark.parametrize(("word", "expected"), [("cat", "a"), ("airplane", "an"), ("ice cream", "an")])
def test_article(word, expected):
    assert article(word) == expected


def test_fill():
    assert fill("this is {a} {word}", "egg") == "this is an egg"
    assert fill("my favorite {word}", "egg") == "my favorite egg"


def test_the_ten_classes_have_the_protocols_synonyms(vocabulary):
    assert {name: entry[1:] for name, entry in vocabulary.classes.items()} == SYNONYMS


def test_a_word_of_two_concepts_is_an_error():
    vocabulary = Vocabulary(classes={"bird": ("🐦", "crane")}, core={"lifting machine": ("🏗", "crane")}, rest={})
    with pytest.raises(ValueError, match="the word 'crane' stands for 'bird' and 'lifting machine'"):
        vocabulary.check()


def test_a_name_that_is_another_concepts_synonym_is_an_error():
    with pytest.raises(ValueError, match="'duck'"):
        Vocabulary(classes={"duck": ("🦆",)}, core={"mallard": ("🦆", "duck")}, rest={}).check()


def test_captions_follow_the_seed(sampler, seeded):
    def captions(seed: int) -> list[str]:
        generator = seeded(seed)
        return [sampler.sample("dog", "flat", generator).text for _ in range(20)]

    assert captions(1) == captions(1)
    assert captions(1) != captions(2)


def test_half_of_the_captions_use_the_name_and_all_synonyms_occur(sampler, seeded):
    generator = seeded()
    texts = [f" {sampler.sample('airplane', None, generator).text} " for _ in range(2000)]
    count = {word: sum(f" {word} " in text for text in texts) for word in ("airplane", *SYNONYMS["airplane"])}
    assert sum(count.values()) == len(texts)  # each caption names it once
    assert abs(count.pop("airplane") - 1000) < 100
    assert min(count.values()) > 250


def test_a_concept_without_synonyms_goes_by_its_name(params, seeded):
    concepts = Vocabulary(classes={"pear": ("🍐",)}, core={}, rest={}).concepts()
    caption = CaptionSampler(params.caption, concepts).sample("pear", None, seeded())
    assert "pear" in caption.text
    assert (caption.concept, caption.style) == ("pear", None)


def test_styles_are_put_into_words(sampler, seeded):
    generator = seeded()
    caption = sampler.sample("cat", "twitter", generator)
    assert caption.text.endswith(" in the style of twitter")
    assert (caption.concept, caption.style) == ("cat", "twitter")
    alone = sampler.sample_style("twitter", generator)
    assert alone.text.endswith("in the style of twitter")
    assert (alone.concept, alone.style) == (None, "twitter")


def test_nothing_has_captions_of_its_own(sampler, params, seeded):
    caption = sampler.sample_none(seeded())
    assert caption.text in params.caption.none_phrases
    assert (caption.concept, caption.style) == (None, None)


def test_all_texts_cover_the_tokens_of_every_caption(sampler, params, vocabulary, tokenizer, seeded):
    styles = list(params.render.vendors)
    used = set(used_tokens(tokenizer, sampler.all_texts(styles, none=True)))
    generator = seeded()
    drawn = [sampler.sample(c.name, styles[0], generator).text for c in vocabulary.concepts()]
    drawn += [sampler.sample_style(style, generator).text for style in styles for _ in range(5)]
    drawn += [sampler.sample_none(generator).text for _ in range(20)]
    assert set(used_tokens(tokenizer, drawn)) <= used


def test_used_tokens_are_sorted_and_hold_the_special_ones(tokenizer):
    assert used_tokens(tokenizer, ["a cat", "cat"]) == [320, 2368, 49406, 49407]


def test_a_caption_that_is_too_long_is_named(tokenizer, sampler, params):
    check_lengths(tokenizer, sampler.all_texts(list(params.render.vendors), none=True))
    fits, too_long = "cat " * 75, "dog " * 76
    check_lengths(tokenizer, [fits])
    with pytest.raises(ValueError, match=r"'dog dog .* has 78 tokens; at most 77 fit"):
        check_lengths(tokenizer, [fits, too_long])
