"""Stage caption: check the vocabulary and the templates, and write down what the models will know."""

import typer

from pretrain.captions import CaptionSampler, check_lengths, used_tokens
from pretrain.config import WORK, load_params, load_vocabulary
from pretrain.data import load_icons
from pretrain.tokenizer import build_tokenizer
from realera.store.artifacts import write_json


def main() -> None:
    params, vocabulary = load_params(), load_vocabulary()
    icons = load_icons(WORK / "icons.parquet")
    tokenizer = build_tokenizer(WORK / "packages/bpe_merges.txt")
    sampler = CaptionSampler(params.caption, vocabulary.concepts())
    styles = params.render.styles
    texts = sampler.all_texts(styles, none=True)
    check_lengths(tokenizer, texts)
    concepts = {
        concept.name: {
            "tier": concept.tier,
            "synonyms": concept.synonyms,
            "icons": concept.icons,
            "num_drawings": icons.concepts.count(concept.name),
        }
        for concept in vocabulary.concepts()
    }
    known = {
        "concepts": concepts,
        "styles": styles,
        "templates": params.caption.templates,
        "style_phrase": params.caption.style_phrase,
        "num_used_tokens": len(used_tokens(tokenizer, texts)),
    }
    write_json(known, WORK / "vocabulary.json")


if __name__ == "__main__":
    typer.run(main)
