import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain import icons as icons_module
from pretrain.config import NpmPackage, PypiPackage, Vocabulary
from pretrain.icons import Icon, fetch_merges, fetch_npm, find_icons, render
from pretrain.stages.render import check_coverage

RED = '<rect width="32" height="16" fill="#f00"/>'


def make_icon(svg: str = "", concept: str = "cat", vendor: str = "noto") -> Icon:
    return Icon(concept, "classes", "🐈", vendor, "cat", svg)


# fetch -----------------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """Stands in for the npm and pip clients: puts an archive in the folder that they are told to use."""
    files = {"package/icons.json": b"{}", "package/info.json": b"{}", "package/chars.json": b"{}"}

    def deliver(command: list[str], cwd: str) -> None:
        if command[0] == "npm":
            with tarfile.open(Path(cwd) / "package.tgz", "w:gz") as tar:
                for name, content in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        else:
            with zipfile.ZipFile(Path(cwd) / "package.whl", "w") as wheel:
                wheel.writestr("merges", b"")

    monkeypatch.setattr(icons_module, "_run", deliver)


def test_npm_package_with_another_digest_is_refused(registry, tmp_path):
    package = NpmPackage(name="@iconify-json/noto", version="1.2.9", integrity="sha512-AAAA")
    with pytest.raises(ValueError, match=r"@iconify-json/noto: .* has digest sha512-.+, pinned is sha512-AAAA"):
        fetch_npm(package, tmp_path / "noto")
    assert not (tmp_path / "noto").exists()


def test_pypi_package_with_another_digest_is_refused(registry, tmp_path):
    package = PypiPackage(name="open_clip_torch", version="3.3.0", sha256="00ff")
    with pytest.raises(ValueError, match=r"open_clip_torch: .* pinned is 00ff"):
        fetch_merges(package, tmp_path / "merges.txt")
    assert not (tmp_path / "merges.txt").exists()


def test_only_the_wanted_files_of_a_package_are_kept(registry, monkeypatch, tmp_path):
    monkeypatch.setattr(icons_module, "_check_digest", lambda *_: None)
    package = NpmPackage(name="@iconify-json/noto", version="1.2.9", integrity="any")
    assert package.folder == "noto"
    fetch_npm(package, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["icons.json", "info.json"]


def test_missing_npm_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm is not installed"):
        fetch_npm(NpmPackage(name="x", version="1.0.0", integrity="any"), tmp_path)


# find ------------------------------------------------------------------------------------------------


@pytest.fixture
def packages(tmp_path) -> Path:
    """emojibase-data and two vendors, `wide` with an alias, in the packages' own layout."""
    labels = {
        "1F408": ("cat", ["cat"]),
        "2708-FE0F": ("airplane", "airplane"),  # emojibase writes a single shortcode without a list
        "1F550": ("one o'clock", ["clock_1"]),
        "1F998": ("kangaroo", ["kangaroo"]),
    }
    rows = [{"hexcode": code, "label": label} for code, (label, _) in labels.items()]
    shortcodes = {code: codes for code, (_, codes) in labels.items()}
    sets = {
        "plain": {"height": 64, "width": 64, "icons": {n: {"body": RED} for n in ("cat", "airplane", "one-oclock")}},
        "wide": {
            "height": 16,
            "icons": {"jet-plane": {"body": RED, "width": 32}, "clock-1": {"body": RED}},
            "aliases": {"airplane": {"parent": "jet-plane"}},
        },
    }
    _write(tmp_path / "emojibase-data/en/data.json", rows)
    _write(tmp_path / "emojibase-data/en/shortcodes/emojibase.json", shortcodes)
    for name, content in sets.items():
        _write(tmp_path / name / "icons.json", content)
    return tmp_path


def _write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def found(packages: Path, **concepts: str) -> dict[tuple[str, str], Icon]:
    vocabulary = Vocabulary(classes={name: (emoji,) for name, emoji in concepts.items()}, core={}, rest={})
    vendors = {"plain-style": "plain", "wide-style": "wide"}
    return {(icon.concept, icon.vendor): icon for icon in find_icons(vocabulary, packages, vendors)}


def test_icons_are_found_by_label(packages):
    icons = found(packages, cat="🐈")
    assert list(icons) == [("cat", "plain-style")]
    icon = icons["cat", "plain-style"]
    assert (icon.tier, icon.emoji, icon.name) == ("classes", "🐈", "cat")


@pytest.mark.parametrize("emoji", ["✈", "✈\ufe0f"])
def test_presentation_selector_makes_no_difference(packages, emoji):
    assert ("airplane", "plain-style") in found(packages, airplane=emoji)


def test_an_alias_gives_its_parents_drawing(packages):
    icon = found(packages, airplane="✈")["airplane", "wide-style"]
    assert icon.name == "airplane"
    assert RED in icon.svg


def test_names_match_without_hyphens_and_apostrophes_or_by_shortcode(packages):
    icons = found(packages, clock="🕐")
    assert icons["clock", "plain-style"].name == "one-oclock"
    assert icons["clock", "wide-style"].name == "clock-1"


def test_what_a_vendor_does_not_draw_is_left_out(packages):
    assert found(packages, kangaroo="🦘", unheard_of="🪰") == {}


def test_the_view_is_square_around_the_drawing(packages):
    icons = found(packages, airplane="✈")
    assert 'viewBox="0.0 0.0 64 64"' in icons["airplane", "plain-style"].svg
    assert 'viewBox="0.0 -8.0 32 32"' in icons["airplane", "wide-style"].svg


# render ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 96])
def test_render_gives_rgba_of_the_size_asked(size):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="8" fill="#f00"/></svg>'
    with Image.open(io.BytesIO(render(make_icon(svg), size))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (size, size))
        pixels = np.asarray(image)
    assert pixels[size // 2, size // 4].tolist() == [255, 0, 0, 255]
    assert pixels[size // 2, size * 3 // 4, 3] == 0


def test_a_wide_drawing_is_not_stretched(packages):
    icon = found(packages, airplane="✈")["airplane", "wide-style"]
    alpha = np.asarray(Image.open(io.BytesIO(render(icon, 32))))[..., 3]
    assert alpha.shape == (32, 32)
    assert (alpha[8:24] == 255).all()
    assert (alpha[:8] == 0).all()
    assert (alpha[24:] == 0).all()


def test_concepts_that_too_few_vendors_draw_are_named():
    icons = [make_icon(concept="cat", vendor=vendor) for vendor in ("noto", "blob", "contrast")]
    icons += [make_icon(concept="dog", vendor=vendor) for vendor in ("noto", "noto", "contrast")]
    check_coverage(icons, ["cat", "dog"], 2, {"nobody"})
    check_coverage(icons, ["cat"] * 2 + ["dog"], 1, {"contrast"})
    with pytest.raises(ValueError, match=r"min_vendors is 2, .* fewer: \{'dog': 1\}"):
        check_coverage(icons, ["cat", "dog"], 2, {"contrast"})
    with pytest.raises(ValueError, match="'bird': 0"):
        check_coverage(icons, ["cat", "dog", "bird"], 1, set())
