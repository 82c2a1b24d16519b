"""Classifier guidance (Dhariwal & Nichol 2021, arXiv:2105.05233): towards what a classifier of noised latents takes for a class.

Decides how the gradient of its log probability leads a sampling run, in the form of DDIM or in that of ancestral sampling. The classifier
is one of configs/shapes_noisy_classifier.py's kind (models/noisy_classifier.py). Around any other guidance; the gradient is the classifier's alone.
Source: algorithms 1 and 2; openai/guided-diffusion scripts/classifier_sample.py, gaussian_diffusion.py condition_mean and
condition_score. Scales are the paper's: s sharpens p(y | x) to p(y | x)^s.
"""

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.learned_variance import VARIANCE, log_variance
from ldm_jax.diffusion.process import posterior_between, signal_and_noise
from ldm_jax.samplers.base import Sampler, batch_t
from ldm_jax.types import Array, EpsFn, PyTree

NEUTRAL = dict(scale=0.0)
EACH = ("labels",)
FORMS = ("ddim", "ddpm")


def prepare(call, *, classifier, labels, scale: float = 1.0, form=None) -> dict | None:
    """classifier: a checkpoint of one, trained on the latents of this model. labels: a class by its name or its number, or one for each
    picture. scale: as of `guide`. form: 'ddim' or 'ddpm'; None is that of the sampler.

    Raises: ValueError for a classifier of other latents, an unknown class, and a form that the sampler does not have.
    """
    own = "ddpm" if call.sampler == "ddpm" else "ddim"
    if form not in (None, *FORMS) or (form == "ddpm" and own != "ddpm"):
        raise ValueError(
            f"classifier: form is {form!r} with the sampler {call.sampler!r}, expected ddim, or ddpm with the sampler 'ddpm'"
        )
    if scale == 0:
        return None
    found = call.noisy_classifier(classifier)
    numbers = call.labels(labels, found.labels, "classifier: labels")
    return dict(network=found.network, params=found.params, labels=numbers, scale=scale, form=form or own)


def guide(
    eps_fn: EpsFn,
    denoiser: Denoiser,
    *,
    network,
    params: PyTree,
    labels: Array,
    scale: Array = 1.0,
    form: str = "ddim",
) -> EpsFn:
    """eps - sqrt(1 - alphas_cumprod) s grad_x log p(label | x) (algorithm 2). One forward and backward pass of the classifier.

    network: a module with apply({'params': params}, x [B, h, w, c], t [B]) -> logits [B, K]. labels: [B] int32. scale: s, [] float32, 0
    is off. form: 'ddpm' leaves eps as it is, and shifts the mean of each step instead: see `around`.
    """
    if form == "ddpm":
        return eps_fn
    gradient = gradient_of(denoiser, network, params, labels)

    def guided(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        return eps - signal_and_noise(denoiser.schedule, t, x)[1] * scale * gradient(x, t), taps

    return guided


def around(
    sampler: Sampler,
    denoiser: Denoiser,
    *,
    network,
    params: PyTree,
    labels: Array,
    scale: Array = 1.0,
    form: str = "ddim",
) -> Sampler:
    """The sampler; in the form 'ddpm' each step's mean is shifted by s Sigma grad_x log p(label | x), Sigma the variance that is drawn
    with (algorithm 1)."""
    if form == "ddim":
        return sampler
    gradient = gradient_of(denoiser, network, params, labels)

    def step(eps_fn, state, x, info):
        shift = scale * gradient(x, batch_t(info.t, x))
        state, out, taps = sampler.step(eps_fn, state, x, info)
        variance = posterior_between(denoiser.schedule, x, x, info.t, info.t_prev)[1]
        if VARIANCE in taps:
            variance = jnp.exp(
                log_variance(denoiser.schedule, taps[VARIANCE][-x.shape[0] :], info.t, info.t_prev)
            )
        return state, out + jnp.where(info.t_prev < 0, 0.0, variance) * shift, taps

    return sampler._replace(step=step)


def gradient_of(denoiser: Denoiser, network, params: PyTree, labels: Array):
    """(x [B, ...], t [B]) -> the gradient of log p(label | x), [B, ...] float32, each example's own."""
    labels = jnp.tile(labels, denoiser.branches)

    def log_probability(x, t):
        logits = network.apply({"params": params}, x, t).astype(jnp.float32)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).sum()

    return jax.grad(log_probability)
