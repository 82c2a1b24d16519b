"""Autoguidance (Karras et al. 2024, arXiv:2406.02507): away from what a weaker version of the model itself predicts.

Decides how the two predictions are combined. The weaker one, a smaller network or an earlier checkpoint, errs where the model errs, only
more, so that leading away from it corrects, where classifier-free guidance also narrows what is drawn. It is told what the model is told,
by its own conditioner. Around any other guidance, and without a condition as well. Source: equation 3 of the paper, in eps, of which the
clean picture is a linear function at each noise level.
"""

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.types import Array, EpsFn, PyTree

NEUTRAL = dict(scale=1.0)


def prepare(call, *, model, scale: float = 2.0) -> dict | None:
    """model: a checkpoint of the weaker version, in the same latents. scale: as of `guide`.

    Raises: ValueError for a checkpoint of other latents, noise levels, kind of prediction or conditioning.
    """
    if scale == 1:
        return None
    network, params = call.weaker(model)
    return dict(network=network, params=params, scale=scale)


def guide(eps_fn: EpsFn, denoiser: Denoiser, *, network, params: PyTree, scale: Array = 2.0) -> EpsFn:
    """eps_0 + s (eps - eps_0), eps_0 of the weaker version under the condition alone. One call of the weaker network more.

    network, params: a UNet, and {'unet', 'conditioner'} of it. scale: s, [] float32; the paper's best are 1.4 to 2.3, 1 is off, less
    than 1 mixes the two.
    """
    weaker = denoiser.under(network, params)

    def guided(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        worse, _ = weaker.conditional(x, t, control)
        return worse + scale * (eps - worse), taps

    return guided
