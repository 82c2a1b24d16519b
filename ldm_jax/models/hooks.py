"""Where a Control acts inside a flax module: the test whether it does, the feature hook, and the way out for
records.

Decides that a site without a Control costs nothing, and that records leave through the 'taps' collection
under the name '<site name>/<site kind>'. Knows nothing of attention; who collects the taps is models/unet.py
(apply_unet).
"""

from flax import linen as nn

from ldm_jax.control.base import Control, Site
from ldm_jax.types import Array, PyTree


def touched(control: Control | None, site: Site) -> bool:
    """Whether `control` acts at `site`; a python bool at trace time, so that an untouched site compiles to
    the plain network."""
    return control is not None and control.touches(site)


def tap(module: nn.Module, control: Control, site: Site, value: Array) -> None:
    """Sows what `control.record` wants to read back at `site`; several calls of one module keep the last.

    Raises: as `_sow`.
    """
    _sow(module, control, site, f"{site.name}/{site.kind}", control.record(site, value))


def tap_projections(module: nn.Module, control: Control, site: Site, h: Array, q: Array, k: Array) -> None:
    """The same of `control.record_projections`, under the site's name with '/projections' after it."""
    record = control.record_projections(site, h, q, k)
    _sow(module, control, site, f"{site.name}/{site.kind}/projections", record)


def _sow(module: nn.Module, control: Control, site: Site, name: str, record: PyTree | None) -> None:
    """Sows a record under `name`.

    Raises: ValueError if there is a record and the 'taps' collection is not mutable, where linen would drop
    it silently.
    """
    if record is None:
        return
    if not module.is_mutable_collection("taps"):
        raise ValueError(
            f"{type(control).__name__} records at {site.name}/{site.kind}, but 'taps' is not mutable and the "
            "record would be lost; call the network through ldm_jax.models.unet.apply_unet"
        )
    module.sow("taps", name, record, reduce_fn=lambda _, latest: latest, init_fn=lambda: None)


def feature_hook(module: nn.Module, control: Control | None, site: Site, x: Array) -> Array:
    """x [B, h, w, C] (or [B, N, C]) after `control.features`, recorded if the control asks for it; x itself at an
    untouched site."""
    if not touched(control, site):
        return x
    x = control.features(site, x)
    tap(module, control, site, x)
    return x
