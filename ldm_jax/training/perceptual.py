"""Whether a first stage is trained with LPIPS, and with whose weights: on by default where they are at hand.

config.lpips.vgg_path says it: a file; "" for the one in the folders of convert/cached_weights.py, if there is one;
"off" for none. It reads no weights.
"""

import logging
from pathlib import Path
from typing import Any

from ldm_jax import text_files
from ldm_jax.convert import lpips
from ldm_jax.training.workdir import has_checkpoints

OFF = "off"
FILES = ("vgg_path", "heads_path")
log = logging.getLogger(__name__)


def with_weights(config: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """config with the files that are at hand named in its section lpips, where that names none. A run that goes on in
    workdir keeps what it began with: its loss must not change because a file has come since."""
    section = config.get("lpips")
    if not section or section.get("vgg_path"):
        return config
    if has_checkpoints(workdir) and (workdir / "config.json").is_file():
        before = text_files.read_object(workdir / "config.json", "the workdir's config").get("lpips") or {}
        return dict(config, lpips=dict(section) | {name: before[name] for name in FILES if name in before})
    try:
        found = lpips.find(None, section.get("heads_path") or None)
    except ValueError as error:
        log.info("no perceptual loss: %s", error)
        return config
    log.info("the perceptual loss takes %s", " and ".join(str(path) for path in found if path))
    named = {name: str(path) for name, path in zip(FILES, found, strict=True) if path}
    return dict(config, lpips=dict(section) | named)
