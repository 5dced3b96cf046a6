"""docs/erase.ipynb runs from its first cell to its last, and is kept without outputs."""

import base64
import io

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = "docs/erase.ipynb"


@pytest.fixture(scope="module")
def notebook(repository):
    return nbformat.read(repository / NOTEBOOK, as_version=4)


def test_it_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
def test_it_runs_and_its_pictures_show_an_erasure(notebook, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(repository)}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    (png,) = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)
    above, below = np.split(pixels, 2)
    change = abs(above - below).reshape(64, 8, 64, 3).mean((0, 2, 3))  # of each column: airplane, jet, ship, cat, twice
    erased, kept = change[[0, 1, 4, 5]], change[[2, 3, 6, 7]]
    assert erased.min() > kept.max()
