"""The site that mkdocs.yml makes of docs/, and the notebooks in it.

pip install 'ldm_jax[docs]' && python -m pytest -n 0 -m slow tests/test_site.py
"""

import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def test_every_page_is_in_the_lists():
    site, listed = (ROOT / "mkdocs.yml").read_text(), (DOCS / "index.md").read_text()
    for page in sorted({path.name for path in DOCS.glob("*.md")} - {"index.md"}):
        assert f": {page}\n" in site, f"{page} is not in mkdocs.yml"
        assert f"]({page})" in listed, f"{page} is not in docs/index.md"


def test_pictures_of_the_gallery_are_there():
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (DOCS / "gallery.md").read_text())
    assert len(shown) >= 8 and not [name for name in shown if not (DOCS / name).is_file()]


def test_notebooks_hold_what_they_gave():
    for path in NOTEBOOKS:
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in cells), f"{path.name}: run docs/notebooks/run.py"
        assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    assert "def sample(" in (tmp_path / "site" / "api" / "inference" / "index.html").read_text()
    pages = [page.read_text() for page in (tmp_path / "site").rglob("*.html")]
    assert not [page for page in pages if "fonts.googleapis" in page]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.syspath_prepend(str(DOCS / "notebooks"))
    import run

    run.run(path)
