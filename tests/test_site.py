"""The site that mkdocs.yml makes of docs/.

pip install 'ldm_jax[docs]' && python -m pytest -n 0 -m slow tests/test_site.py
"""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_every_page_is_in_the_lists():
    site, listed = (ROOT / "mkdocs.yml").read_text(), (DOCS / "index.md").read_text()
    for page in sorted({path.name for path in DOCS.glob("*.md")} - {"index.md"}):
        assert f": {page}\n" in site, f"{page} is not in mkdocs.yml"
        assert f"]({page})" in listed, f"{page} is not in docs/index.md"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    assert "def sample(" in (tmp_path / "site" / "api" / "inference" / "index.html").read_text()
    pages = [page.read_text() for page in (tmp_path / "site").rglob("*.html")]
    assert not [page for page in pages if "fonts.googleapis" in page]
