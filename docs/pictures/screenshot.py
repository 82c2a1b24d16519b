"""The page as a browser shows it, for docs/gallery.md:

    pip install playwright && apt-get install chromium && python docs/pictures/screenshot.py docs/pictures

page.png, a prompt drawn, and page_edit.png, the sliders of an edit.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import ldm_jax
from ldm_jax.web import page as web

SLOW = 240_000  # milliseconds: what is drawn compiles first


def click(tab: Page, name: str) -> None:
    """Presses the button that is shown, and waits until its pictures are there."""
    tab.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()
    tab.locator("img[src*='gradio_api/file']").locator("visible=true").nth(1).wait_for(timeout=SLOW)
    tab.wait_for_timeout(1500)


def main(out: Path) -> None:
    shown = web.serve(web.Page(ldm_jax.load("shapes")), "127.0.0.1", None, block=False)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport=dict(width=1180, height=860))
        tab.goto(shown.local_url)
        click(tab, "Draw")
        tab.screenshot(path=out / "page.png")
        tab.get_by_role("tab", name="Edits").click()
        click(tab, "Edit")
        tab.screenshot(path=out / "page_edit.png")
        browser.close()
    shown.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
