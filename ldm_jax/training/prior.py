"""Prior preservation: pictures of the class, drawn by the base before it is taught anything, that are trained on
beside.

Decides where they lie, that each is drawn once, and with which prompt, which of several is written beside it. How they
are mixed in is data/prior.py's, what they weigh is a field of each example.
Source: Ruiz et al. 2023, DreamBooth (arXiv:2208.12242), section 3.2, equation 2.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldm_jax import atomic, grid, paths
from ldm_jax.config import call
from ldm_jax.data import pipeline
from ldm_jax.data.prior import WithPrior
from ldm_jax.distributed import hosts
from ldm_jax.inference import pipeline as inference

log = logging.getLogger(__name__)


def with_prior(config: dict, workdir: Path, source: Any) -> Any:
    """The source, beside which are the pictures that config.prior {prompt, number, weight, folder} asks for; itself
    without.

    Those that are not there yet are drawn by config.base. prompt: a text, or several, which are drawn in turns.
    Raises: ValueError for an unknown option or a number that cannot be, no prompt, or a run without a base.
    """
    section = config.get("prior")
    if not section:
        return source
    if config["data"].get("precompute_latents"):
        raise ValueError(
            "config.prior does not go with data.precompute_latents: its pictures are encoded in each step"
        )
    if not config.get("base"):
        raise ValueError("config.prior: config.base names no model, expected one that draws the class")
    return call(_beside, dict(section), "prior", base=config["base"], workdir=workdir, source=source)


def _beside(
    *,
    base: str,
    workdir: Path,
    source: Any,
    prompt: str | Sequence[str],
    number: int = 200,
    weight: float = 1.0,
    folder: str | None = None,
    batch_size: int = 8,
) -> WithPrior:
    if number < 1 or not 0 <= weight < float("inf"):
        raise ValueError(f"prior: got number {number} and weight {weight}, expected at least 1 and 0")
    if not prompt:
        raise ValueError("prior: got no prompt, expected a text, or several")
    place = paths.of(folder).expanduser() if folder else workdir / "prior"
    with hosts.first_alone("the pictures of the class"):
        if hosts.is_first():
            draw(base, place, prompt, number, batch_size)
    prior = pipeline.open_source("folder", "train", root=paths.local(place), split_folders=False)
    return WithPrior(source, prior, _texts(prompt)[0], weight)


def _texts(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)


def draw(base: str, folder: Path, prompt: str | Sequence[str], number: int, batch_size: int = 8) -> None:
    """Draws pictures of `prompt` with seeds 0 to number - 1 into the folder, those that are not there yet; with any
    pictures of other names in it, the folder is left as it is. Of several prompts each picture has its own in a text
    file.
    """
    texts = _texts(prompt)
    if not paths.in_bucket(folder):
        folder.mkdir(parents=True, exist_ok=True)
    there = {
        name for name in paths.names(folder) if name.lower().endswith((".png", ".jpg", ".jpeg", ".webp"))
    }
    names = {seed: f"{seed:05d}.png" for seed in range(number)}
    missing = [seed for seed, name in names.items() if name not in there]
    if not missing or there - set(names.values()):
        return
    log.info("drawing %d pictures of %r into %s", len(missing), prompt, folder)
    model = inference.load(base)
    asked = [texts[seed % len(texts)] for seed in missing]
    for places, images in model.stream(asked, missing, batch_size=batch_size, plain_prompts=True):
        for place, image in zip(places, images, strict=True):
            file = folder / names[missing[place]]
            if len(texts) > 1:  # before the picture, as that is what is looked for
                atomic.write_text(file.with_suffix(".txt"), asked[place])
            grid.write_png(file, image, {"prompt": asked[place]})
