"""Stage render: every vendor's drawing of every concept as a PNG, one row an icon."""

import pyarrow as pa
import typer
from tqdm import tqdm

from pretrain.config import WORK, load_params, load_vocabulary
from pretrain.icons import Icon, find_icons, render
from realera.artifacts import write_parquet

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


def check_coverage(icons: list[Icon], names: list[str], min_vendors: int, ignored: set[str]) -> None:
    """Raises ValueError naming the concepts that too few vendors draw."""
    vendors: dict[str, set[str]] = {name: set() for name in names}
    for icon in icons:
        if icon.vendor not in ignored:
            vendors[icon.concept].add(icon.vendor)
    rare = {name: len(found) for name, found in vendors.items() if len(found) < min_vendors}
    if rare:
        raise ValueError(f"render.min_vendors is {min_vendors}, but these concepts have fewer: {rare}")


def main() -> None:
    params = load_params().render
    vocabulary = load_vocabulary()
    icons = list(find_icons(vocabulary, WORK / "packages", params.vendors))
    names = [concept.name for concept in vocabulary.concepts()]
    check_coverage(icons, names, params.min_vendors, set(params.judge_only))
    rows = [
        {
            "icon_id": f"{icon.vendor}/{icon.name}",
            "concept": icon.concept,
            "tier": icon.tier,
            "vendor": icon.vendor,
            "emoji": icon.emoji,
            "png": render(icon, params.size),
        }
        for icon in tqdm(icons, desc="render", unit="icon")
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), WORK / "icons.parquet")


if __name__ == "__main__":
    typer.run(main)
