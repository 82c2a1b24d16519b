"""The page as a browser shows it, for docs/gallery.md:

    pip install playwright && apt-get install chromium && python docs/pictures/screenshot.py docs/pictures

page.png, a prompt drawn; page_edit.png, the sliders of an edit; page_inpaint.png, a hole that was painted, and filled.
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


def paint(tab: Page) -> None:
    """Draws a picture, paints over its right half with the mouse, and has that filled."""
    tab.get_by_role("tab", name="Inpainting").click()
    tab.get_by_role("button", name="Draw one to begin with").locator("visible=true").click()
    tab.wait_for_timeout(12_000)
    place = tab.locator("canvas").locator("visible=true").first.bounding_box()
    left, top = place["x"] + place["width"] / 2, place["y"] + place["height"] / 4
    tab.mouse.move(left, top)
    tab.mouse.down()
    for i in range(12):
        tab.mouse.move(left + (i % 2) * place["width"] / 5, top + i * place["height"] / 30, steps=4)
    tab.mouse.up()
    tab.get_by_role("button", name="Fill").click()
    tab.locator("img[src*='gradio_api/file']").locator("visible=true").nth(3).wait_for(timeout=SLOW)
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
        paint(tab)
        tab.screenshot(path=out / "page_inpaint.png")
        browser.close()
    shown.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
