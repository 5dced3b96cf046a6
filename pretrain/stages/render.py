"""Stage render: every vendor's drawing of every concept as a PNG, one row an icon."""

import typer

from pretrain.config import WORK, load_params, load_vocabulary
from pretrain.icons import Icon, find_icons, icon_table
from realera.store.artifacts import write_parquet


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
    write_parquet(icon_table(icons, params.size), WORK / "icons.parquet")


if __name__ == "__main__":
    typer.run(main)
