"""The page as a browser and a script meet it: gradio's server with a small model.

pip install 'ldm_jax[web]' && python -m pytest -n 0 tests/web
pip install playwright && python -m pytest -n 0 -m slow tests/web     with Debian's chromium and the shipped model
"""

import concurrent.futures
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import ldm_jax
from ldm_jax.checkpoints import adapters as adapter_files
from ldm_jax.checkpoints.bundle import Bundle
from ldm_jax.commands import web as command
from ldm_jax.inference import pipeline
from ldm_jax.personalization import lora
from ldm_jax.system import make_system
from ldm_jax.types import KEY_IMPL
from ldm_jax.web import adapters
from tests.inference.test_pipeline import CONFIG
from tests.tiny_models import random_params

pytest.importorskip("gradio")
client = pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")

from ldm_jax.web import page  # noqa: E402

RED, BLUE = "a red circle", "a blue circle"
CHROMIUM = shutil.which("chromium")


def served(model):
    return page.serve(page.Page(model, name="tiny"), "127.0.0.1", None, block=False)


@pytest.fixture(scope="module")
def model():
    system = make_system(CONFIG)
    return pipeline.from_bundle(Bundle(CONFIG, random_params(system, gain=1.5), system.tokenizer))


@pytest.fixture(scope="module")
def blocks(model):
    shown = served(model)
    yield shown
    shown.close()


@pytest.fixture(scope="module")
def call(blocks):
    return client.Client(blocks.local_url, verbose=False).predict


def read(gallery) -> np.ndarray:
    return np.stack([np.asarray(Image.open(entry["image"]).convert("RGB")) for entry in gallery])


def test_a_script_gets_what_the_library_draws(call, model):
    pictures, words = call(RED, "", 3, 2, 2.5, 10, api_name="/text")
    expected = model.sample([RED] * 2, [3, 4], guidance_scale=2.5, num_steps=10)
    np.testing.assert_array_equal(read(pictures), expected)
    assert [entry["caption"] for entry in pictures] == ["seed 3", "seed 4"]
    assert [entry["caption"] for entry in words] == RED.split()
    compiled = model.num_compiled
    for scale in (1.1, 7.3, 12):
        call(BLUE, "", 5, 2, scale, 10, api_name="/text")
    assert model.num_compiled == compiled


def test_several_users_at_once(blocks, model):
    """Each has a client of its own; one queue serves them, and each gets the own pictures."""

    def ask(seed):
        one = client.Client(blocks.local_url, verbose=False)
        return read(one.predict(RED, "", seed, 2, 2.5, 10, api_name="/text")[0])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(ask, range(4)))
    for seed, images in enumerate(drawn):
        expected = model.sample([RED] * 2, [seed, seed + 1], guidance_scale=2.5, num_steps=10)
        np.testing.assert_array_equal(images, expected)


def test_what_is_no_picture_is_one_sentence(call, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_text("no picture")
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    whole = (tmp_path / "large.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])

    def ask(name):
        return call(client.handle_file(tmp_path / name), RED, 0.5, 0, 1, 2.5, 10, api_name="/image_to_image")

    with pytest.raises(Exception, match="the file that was uploaded cannot be used: it is no picture"):
        ask("x.png")
    with pytest.raises(Exception, match="the file that was uploaded is damaged"):
        ask("cut.png")
    monkeypatch.setenv("LDM_JAX_MAX_PIXELS", "3000")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which is set with it
    with pytest.raises(Exception, match="it is 64 x 64 .height x width., expected at most 3000 pixels"):
        ask("large.png")
    with pytest.raises(Exception, match="there is no picture, expected one to be uploaded"):
        call(None, RED, 0.5, 0, 1, 2.5, 10, api_name="/image_to_image")


def test_no_path_is_taken_from_the_page(blocks):
    """A picture that was uploaded is read; one of this machine that nobody uploaded is neither read nor handed out."""
    own = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "first.png"
    url = f"{blocks.local_url}gradio_api/"
    uploaded = httpx.post(f"{url}upload", files={"files": own.read_bytes()}).json()[0]
    assert "event: complete" in _posted(url, uploaded)
    assert "event: error" in _posted(url, str(own))
    assert httpx.get(f"{url}file={uploaded}").status_code == 200
    assert httpx.get(f"{url}file={own}").status_code in (403, 404)


def _posted(url: str, path: str) -> str:
    """What the server says to a picture that is named by its path, as a browser might be made to."""
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "first.png"}
    asked = httpx.post(f"{url}call/image_to_image", json={"data": [picture, RED, 0.5, 0, 1, 2.5, 10]}).json()
    return httpx.get(f"{url}call/image_to_image/{asked['event_id']}", timeout=60).text


def test_values_out_of_range_are_refused(call):
    for wrong in (dict(seed=-1), dict(pictures=3), dict(steps=12)):
        asked = dict(prompt=RED, without="", seed=0, pictures=2, guidance_scale=2.5, steps=10) | wrong
        with pytest.raises(Exception, match="expected|not in|minimum|less"):
            call(*asked.values(), api_name="/text")


def test_sliders_beside_an_adapter_start_where_it_recommends(model, tmp_path):
    """As of one that was distilled to few steps."""
    bundle = Bundle(CONFIG, model.params, model.system.tokenizer)
    delta = lora.init(jax.random.key(0, impl=KEY_IMPL), bundle.params, rank=2)
    section, sampling = dict(name="lora", rank=2, alpha=2.0), dict(num_steps=6, guidance_scale=1.5)
    adapter_files.save(tmp_path / "a", adapter_files.Adapter(section, delta, "tiny", sampling=sampling))
    with page.gr.Blocks() as blocks:
        adapters.tab(page.Page(model, adapters.Adapted(bundle, [str(tmp_path / "a")])))
    shown = {str(getattr(part, "label", "")): part for part in blocks.blocks.values()}
    steps, guidance = (
        next(p for label, p in shown.items() if label.startswith(start)) for start in ("Steps", "Guid")
    )
    assert (steps.value, guidance.value) == (6, 1.5)


def test_the_command_listens_to_this_machine_alone():
    args = command.parser().parse_args([])
    assert (args.host, args.port, args.checkpoint) == ("127.0.0.1", None, "shapes")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_type_click_and_see(tmp_path):
    """In a browser: the picture is the library's, no slider compiles, and nothing is asked of another machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    model = ldm_jax.load("shapes")
    shown = served(model)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab, asked = browser.new_page(viewport=dict(width=1280, height=1100)), []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(shown.local_url)
        tab.get_by_label("Prompt").first.fill("a large purple triangle")
        tab.get_by_role("button", name="Draw", exact=True).first.click()
        first = tab.locator("img[src*='gradio_api/file']").first
        first.wait_for(timeout=120_000)
        drawn = first.evaluate("image => image.src")
        saved = tmp_path / "first.png"
        saved.write_bytes(tab.request.get(drawn).body())
        compiled = model.num_compiled
        tab.get_by_label("number input for Guidance scale").first.fill("7")
        tab.get_by_role("button", name="Draw", exact=True).first.click()
        tab.wait_for_function(
            "old => ![...document.images].some(image => image.src == old)", arg=drawn, timeout=60_000
        )
        browser.close()
    shown.close()
    expected = model.sample(["a large purple triangle"] * 4, range(4))[0]
    np.testing.assert_array_equal(np.asarray(Image.open(saved).convert("RGB")), expected)
    assert model.num_compiled == compiled
    elsewhere = [url for url in asked if not url.startswith((shown.local_url, "data:", "blob:"))]
    assert not elsewhere
