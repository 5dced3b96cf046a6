import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from pretrain.data import IconSampler, light_views, load_icons, plain_views
from realera.store.artifacts import write_parquet


def test_load_icons_reads_what_render_writes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 4), dtype=np.uint8)
    rows = []
    for i, image in enumerate(pixels):
        buffer = io.BytesIO()
        Image.fromarray(image, "RGBA").save(buffer, "png")
        names = {"icon_id": f"noto/{i}", "concept": "cat", "tier": "classes", "vendor": "noto", "emoji": "🐈"}
        rows.append(names | {"png": buffer.getvalue()})
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "icons.parquet")
    icons = load_icons(tmp_path / "icons.parquet")
    assert len(icons) == 2
    assert icons.icon_ids == ("noto/0", "noto/1")
    assert (icons.concepts, icons.tiers, icons.vendors) == (("cat",) * 2, ("classes",) * 2, ("noto",) * 2)
    assert icons.rgba.dtype == torch.uint8
    assert np.array_equal(icons.rgba.permute(0, 2, 3, 1).numpy(), pixels)


def test_split_is_disjoint_and_complete(icons):
    train, val = icons.split(7, 0.3)
    assert sorted(train.icon_ids + val.icon_ids) == sorted(icons.icon_ids)
    assert 0.15 < len(val) / len(icons) < 0.45
    row = icons.icon_ids.index(val.icon_ids[0])
    assert torch.equal(val.rgba[0], icons.rgba[row])
    assert val.concepts[0] == icons.concepts[row]


def test_split_is_stable_when_icons_are_added_or_removed(icons):
    fewer = icons.select([i % 3 > 0 for i in range(len(icons))])
    assert set(fewer.split(7, 0.3)[1].icon_ids) == set(icons.split(7, 0.3)[1].icon_ids) & set(fewer.icon_ids)


def test_split_follows_the_seed(icons):
    assert icons.split(7, 0.3)[1].icon_ids == icons.split(7, 0.3)[1].icon_ids
    assert icons.split(7, 0.3)[1].icon_ids != icons.split(8, 0.3)[1].icon_ids


def test_vendors(icons):
    rest = icons.without_vendors("noto", "flat")
    assert set(rest.vendors) == {"blob", "firefox"}
    assert len(rest) == len(icons) // 2
    assert set(icons.of_vendor("noto").vendors) == {"noto"}
    assert icons.without_vendors().icon_ids == icons.icon_ids


def test_concepts_are_drawn_by_the_weight_of_their_tier(icons, seeded):
    few_cats = icons.select([concept != "cat" or i % 10 == 0 for i, concept in enumerate(icons.concepts)])
    sampler = IconSampler(few_cats, {"classes": 6.0, "core": 3.0, "rest": 1.0})
    index = sampler.sample(10_000, seeded())
    share = {name: sum(few_cats.concepts[i] == name for i in index.tolist()) / 10_000 for name in set(icons.concepts)}
    assert abs(share["cat"] - 0.6) < 0.02
    assert abs(share["house"] - 0.3) < 0.02
    assert abs(share["spoon"] - 0.1) < 0.02
    assert torch.equal(index, sampler.sample(10_000, seeded()))


def test_light_views_follow_the_generator(icons, seeded):
    views = light_views(icons.rgba[:8], seeded(1))
    assert torch.equal(views, light_views(icons.rgba[:8], seeded(1)))
    assert not torch.equal(views, light_views(icons.rgba[:8], seeded(2)))


def test_views_are_images_on_white(icons, seeded):
    for views in (light_views(icons.rgba[:8], seeded()), plain_views(icons.rgba[:8])):
        assert views.dtype == torch.float32
        assert views.shape == (8, 3, 64, 64)
        assert views.min() >= -1
        assert views.max() <= 1
        assert (views[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == 1).all()
        center = icons.rgba[:8, :3, 16, 16].float() / 255 * 2 - 1
        assert torch.allclose(views[:, :, 32, 32], center, atol=1e-3)


def test_transparent_pixels_have_no_color(icons):
    """Straight alpha: what color a transparent pixel has in the file must not bleed into the edges."""
    red = icons.rgba[:1].clone()
    red[:, 0][red[:, 3] == 0] = 255
    black = red.clone()
    black[:, :3] *= black[:, 3:] > 0
    assert torch.equal(plain_views(red), plain_views(black))


def test_selecting_nothing_is_possible(icons):
    nothing = icons.select([False] * len(icons))
    assert len(nothing) == 0
    assert len(replace(icons, rgba=icons.rgba)) == len(icons)
