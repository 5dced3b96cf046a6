"""Stage glyphs: user-interface icons of the same concepts, which only the judge sees, one row a glyph."""

import typer

from pretrain.config import GLYPH, WORK, load_params, load_vocabulary
from pretrain.glyphs import find_glyphs
from pretrain.icons import icon_table
from realera.store.artifacts import write_parquet


def main() -> None:
    params = load_params()
    glyphs = list(find_glyphs(load_vocabulary(), WORK / "packages", params.glyphs, GLYPH))
    write_parquet(icon_table(glyphs, params.render.size), WORK / "glyphs.parquet")


if __name__ == "__main__":
    typer.run(main)
