"""The classic layout of CLIP's parts, which old and new transformers read alike; weights and tokens stay what they are.

transformers 5.6 and later save a text encoder that was not opened from old weights without the prefix `text_model.`,
a tokenizer as `tokenizer.json` alone, and a processor of images within `processor_config.json`. Earlier ones read that
text encoder as random numbers without an error (findings/clip_text_layout.sh), and find neither of the others.
"""

import json
from pathlib import Path
from typing import Any

from realera.settings.errors import ArtifactError, ModelError, first_line
from realera.store.artifacts import read_json, read_safetensors, write_json, write_safetensors
from realera.store.checkpoints import safetensors_header

TOKENIZER_FILES = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")

_PREFIX = "text_model."
_OF_THE_MACHINE = ("backend", "is_local", "local_files_only")
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


def classic_pipeline(folder: Path) -> None:
    """Rewrite text encoder and tokenizer of a diffusers folder.

    Raises:
        ArtifactError: a file is missing or corrupt.
        ModelError: the tokenizer is none of byte pairs.
    """
    classic_text_encoder(folder / "text_encoder")
    classic_tokenizer(folder / "tokenizer")


def classic_clip(folder: Path) -> None:
    """Rewrite the folder of a whole CLIP, whose weights have their classic names in every version.

    Raises:
        ArtifactError: a file is missing or corrupt.
        ModelError: the tokenizer is none of byte pairs.
    """
    _rename_dtype(folder)
    classic_tokenizer(folder)
    classic_processor(folder)


def classic_text_encoder(folder: Path) -> None:
    """Give a CLIP text encoder's weights the names that every version knows.

    Raises:
        ArtifactError: a file is missing or corrupt.
    """
    _rename_dtype(folder)
    path = folder / "model.safetensors"
    weights = read_safetensors(path)
    named = {f"{_PREFIX}{name.removeprefix(_PREFIX)}": weight for name, weight in weights.items()}
    write_safetensors(named, path, {"format": "pt"})  # without it earlier versions refuse the file


def is_classic(text_encoder: Path) -> bool:
    """Return whether every version of transformers finds this text encoder's weights.

    Raises:
        ArtifactError: the file is corrupt.
    """
    for path in text_encoder.glob("*.safetensors"):
        try:
            header, _ = safetensors_header(path)
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path}: not a readable safetensors file: {first_line(error)}") from error
        if any(not name.startswith(_PREFIX) for name in header.keys() - {"__metadata__"}):
            return False
    return True


def classic_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer as vocabulary and merges, in place of `tokenizer.json`.

    That file goes: the tokenizers that transformers 4.44 needs cannot read it, and two sources of one vocabulary can
    come apart.

    Raises:
        ArtifactError: a file is missing or corrupt.
        ModelError: it is no tokenizer of byte pairs.
    """
    path = folder / "tokenizer.json"
    if not path.is_file() and all((folder / name).is_file() for name in TOKENIZER_FILES):
        return
    whole, config = read_json(path), read_json(folder / "tokenizer_config.json")
    model = whole.get("model", {})
    if model.get("type") != "BPE":
        raise ModelError(f"{path}: found a tokenizer of type {model.get('type')!r}; accepted: 'BPE'")
    by_number = dict(sorted(model["vocab"].items(), key=lambda entry: entry[1]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    _write_text(json.dumps(by_number), folder / "vocab.json")
    _write_text("\n".join(["#version: 0.2", *merges, ""]), folder / "merges.txt")
    kept = {name: value for name, value in config.items() if name not in _OF_THE_MACHINE}
    added = {str(token["id"]): {flag: token[flag] for flag in _FLAGS} for token in whole["added_tokens"]}
    write_json(kept | {"added_tokens_decoder": added}, folder / "tokenizer_config.json")
    write_json({name: config[name] for name in _SPECIAL}, folder / "special_tokens_map.json")
    path.unlink()


def classic_processor(folder: Path) -> None:
    """Write CLIP's image processor as `preprocessor_config.json`.

    Raises:
        ArtifactError: a file is corrupt.
    """
    path = folder / "processor_config.json"
    if not path.is_file():
        return
    found = read_json(path)
    processor = {"processor_class": found.get("processor_class", "CLIPProcessor")}
    write_json(found["image_processor"] | processor, folder / "preprocessor_config.json")
    path.unlink()


def ask_for_float32(folder: Path) -> None:
    """Let transformers open a model in float32, as diffusers opens the other parts by default.

    It takes the precision that the config names, which is that of the file.

    Raises:
        ArtifactError: the config is missing or corrupt.
    """
    config = read_json(folder / "config.json")
    config.pop("dtype", None)
    write_json(config | {"torch_dtype": "float32"}, folder / "config.json")


def _rename_dtype(folder: Path) -> None:
    """Call a config's precision by its first name, which new versions read too."""
    write_json(_with_torch_dtype(read_json(folder / "config.json")), folder / "config.json")


def _with_torch_dtype(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {"torch_dtype" if key == "dtype" else key: _with_torch_dtype(inner) for key, inner in value.items()}


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
