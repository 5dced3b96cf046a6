"""The real CLIP tokenizer, built from the published merges (no hub needed)."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import CLIPTokenizer

NUM_MERGES = 49152 - 256 - 2  # CLIP keeps this many of the published merges
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in CLIP's BPE, in vocabulary order (printable ones first)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def build_tokenizer(merges_file: Path) -> CLIPTokenizer:
    """CLIPTokenizer with CLIP's 49,408 entries and 77 tokens a prompt.

    Args:
        merges_file: `bpe_simple_vocab_16e6.txt`: a header line, then one merge a line.
    """
    merges = merges_file.read_text(encoding="utf-8").split("\n")[1 : NUM_MERGES + 1]
    characters = _byte_characters()
    entries = [*characters, *(c + "</w>" for c in characters), *(m.replace(" ", "") for m in merges), START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    assert len(tokenizer) == 49408
    return tokenizer
