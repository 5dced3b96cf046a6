"""What an erasure leaves alone goes into an export byte for byte, so that whatever opens the source opens it too."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from realera.families.registry import MODEL_INDEX
from realera.families.stable_diffusion import UNUSED
from realera.settings.errors import ModelError
from realera.store.artifacts import read_json, write_json
from realera.store.checkpoints import HALF
from realera.text.vocabulary import VOCABULARY_FILE

EDITED = "unet"

_SETTINGS = (".json", ".txt")  # a component's code or pickles could run, and none of ours needs them
_PLAIN = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def copy_unedited(source: Path, folder: Path) -> None:
    """Copy a diffusers folder without the UNet's weights, which the erasure changes.

    Of the others' weights the plain files are copied, or the `.fp16` ones of a component that has no others. Safety
    checker and feature extractor stay behind, as nothing here opens them.

    Raises:
        ArtifactError: `model_index.json` is corrupt.
        ModelError: a component is not there, or has no weights as safetensors.
    """
    index = read_json(source / MODEL_INDEX)
    kept = index | {name: [None, None] for name in UNUSED if any(index.get(name) or ())}
    if kept == index:
        shutil.copyfile(source / MODEL_INDEX, folder / MODEL_INDEX)
    else:
        write_json(kept | {"requires_safety_checker": False}, folder / MODEL_INDEX)
    if (source / VOCABULARY_FILE).is_file():
        shutil.copyfile(source / VOCABULARY_FILE, folder / VOCABULARY_FILE)
    for name, library_and_class in kept.items():
        if isinstance(library_and_class, list) and all(library_and_class):
            _copy_component(source / name, folder / name)


def follow_umask(folder: Path) -> None:
    """Give every file the mode of one that was just opened: libraries leave weights that only their owner reads."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def _copy_component(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise ModelError(f"{source}: a component is missing that {MODEL_INDEX} names")
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    weights = _weights(names) if source.name != EDITED else []
    if source.name != EDITED and "config.json" in names and not weights:  # what else is there has no weights
        raise ModelError(f"{source}: no weights as .safetensors; found {', '.join(names)}")
    settings = [name for name in names if name.endswith(_SETTINGS) and ".index." not in name]
    folder.mkdir()
    for name in (*settings, *weights):
        shutil.copyfile(source / name, folder / name)


def _weights(names: Iterable[str]) -> list[str]:
    found = [name for name in names if ".safetensors" in name]
    plain = [name for name in found if _PLAIN.fullmatch(name)]
    chosen = plain or [name for name in found if f".{HALF}" in name]
    return chosen if any(name.endswith(".safetensors") for name in chosen) else []
