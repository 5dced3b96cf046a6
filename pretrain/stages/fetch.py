"""Stage fetch: download the pinned packages and keep the files that the pipeline reads."""

import typer

from pretrain.config import WORK, load_params
from pretrain.icons import fetch_merges, fetch_npm
from realera.store.artifacts import atomic_path


def main() -> None:
    params = load_params().fetch
    with atomic_path(WORK / "packages") as folder:
        folder.mkdir(parents=True)
        for package in params.npm:
            fetch_npm(package, folder / package.folder)
        fetch_merges(params.merges, folder / "bpe_merges.txt")


if __name__ == "__main__":
    typer.run(main)
