"""Runs the notebooks of this folder, in place, so that what they show is what they give:

    pip install 'ldm_jax[docs]' && python docs/notebooks/run.py docs/notebooks

Each runs in a folder of its own, which is removed; nothing is fetched.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LONGEST = 900  # seconds of a cell, on cores that are shared


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells give. Raises: CellExecutionError with the traceback of one that fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=LONGEST, kernel_name="python3", resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    return notebook


if __name__ == "__main__":
    for notebook in sorted(Path(sys.argv[1]).glob("*.ipynb")):
        nbformat.write(run(notebook), notebook)
        print(f"{notebook} ran")
