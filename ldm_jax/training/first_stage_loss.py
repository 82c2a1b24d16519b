"""The losses of the first stage: reconstruction, perceptual, regularizing and adversarial, and how they are
weighed.

Source: Rombach et al. 2022 (arXiv:2112.10752, appendix G); CompVis/latent-diffusion@a506df5
ldm/modules/losses/contperceptual.py (KL) and vqperceptual.py, taming/modules/losses/vqperceptual.py (VQ). All
functions are pure: networks come as callables, the step and its optimizers are elsewhere. Two callables
recur:
    perceptual    (x, x_rec) -> [B, 1, 1, 1] float32, or None: no perceptual term
    discriminate  (batch_stats, images) -> (logits float32, batch_stats), or None: no adversarial term is
    computed at all
    average       over the devices, of what each computed from its part of the batch (distributed/parallel.py)
A discriminator that is shown a condition concatenates it itself. Losses are of the part of the batch that is given, for
the caller to average; what is no mean over examples (the adaptive weight, the use of the codebook) is of the global
batch, on any number of devices. The original's processes each weigh their own images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.models.quantize import perplexity
from ldm_jax.types import Array, PyTree

Perceptual = Callable[[Array, Array], Array]
Discriminate = Callable[[PyTree, Array], tuple[Array, PyTree]]
Average = Callable[[PyTree], PyTree]


def _alone(tree: PyTree) -> PyTree:
    """The average over one device."""
    return tree


def hinge_loss(logits_real: Array, logits_fake: Array) -> Array:
    """Half the means of relu(1 - real) and relu(1 + fake): 0-d float32, of logits of any shape."""
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - logits_real)) + jnp.mean(jax.nn.relu(1.0 + logits_fake)))


def vanilla_loss(logits_real: Array, logits_fake: Array) -> Array:
    """Half the binary cross entropies of real and fake in nats: 0-d float32, of logits of any shape."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-logits_real)) + jnp.mean(jax.nn.softplus(logits_fake)))


DISCRIMINATOR_LOSSES = {"hinge": hinge_loss, "vanilla": vanilla_loss}


def disc_factor(step: Array, disc_start: int, factor: float = 1.0) -> Array:
    """What adversarial terms are multiplied by at `step` (0-d integer): 0 before disc_start, then `factor`.

    The result is 0-d float32.
    """
    return jnp.where(step < disc_start, 0.0, factor).astype(jnp.float32)


def last_layer_of(model, params: PyTree, features: Array) -> tuple[Callable[[Array], Array], Array]:
    """(kernel -> reconstruction, kernel) of the decoder's last conv at fixed features, for `adaptive_weight`.

    model: AutoencoderKL or VQModel; params: its own; features: as the model returns them with
    return_features=True.
    """
    conv_out = jax.lax.stop_gradient(params["decoder"]["conv_out"])
    features = jax.lax.stop_gradient(features)

    def last_layer(kernel: Array) -> Array:
        only = {"params": {"decoder": {"conv_out": {**conv_out, "kernel": kernel}}}}
        return model.apply(only, features, method="last_layer")

    return last_layer, conv_out["kernel"]


def adaptive_weight(
    nll_fn: Callable[[Array], Array],
    g_fn: Callable[[Array], Array],
    last_layer: Callable[[Array], Array],
    kernel: Array,
    disc_weight: float,
    average: Average = _alone,
) -> Array:
    """clip(|d nll / d kernel| / (|d g / d kernel| + 1e-4), 0, 1e4) disc_weight, 0-d float32, a constant to
    differentiation.

    nll_fn, g_fn: reconstruction -> 0-d, both unweighted. last_layer, kernel: from `last_layer_of`. Norms are
    l2 over the kernel; the bias does not count. Source: Esser et al. 2021 (arXiv:2012.09841) eq. 7, there
    with delta = 1e-6 and no clip. Under jit the reconstruction, both losses and the gradient of nll are
    shared with the generator's own pass.
    """
    x_rec, pull = jax.vjp(last_layer, jax.lax.stop_gradient(kernel))
    nll_grad, g_grad = average((pull(jax.grad(nll_fn)(x_rec))[0], pull(jax.grad(g_fn)(x_rec))[0]))
    ratio = jnp.linalg.norm(nll_grad) / (jnp.linalg.norm(g_grad) + 1e-4)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, 1e4) * disc_weight)


def reconstruction_error(
    x: Array, x_rec: Array, perceptual: Perceptual | None, perceptual_weight: float, pixel_loss: str = "l1"
) -> tuple[Array, Array]:
    """(error [B, H, W, C], perceptual [B, 1, 1, 1] or 0), float32. The perceptual distance is added to every
    pixel's error.

    pixel_loss: 'l1' | 'l2'. Raises: ValueError for another.
    """
    if pixel_loss not in ("l1", "l2"):
        raise ValueError(f"pixel_loss: got {pixel_loss!r}, expected 'l1' or 'l2'")
    error = jnp.abs(x - x_rec) if pixel_loss == "l1" else jnp.square(x - x_rec)
    if perceptual is None or perceptual_weight == 0.0:
        return error, jnp.zeros((), jnp.float32)
    distance = perceptual(x, x_rec)
    return error + perceptual_weight * distance, distance


def _adversarial(
    nll_fn: Callable[[Array], Array],
    x_rec: Array,
    discriminate: Discriminate | None,
    batch_stats: PyTree,
    last_layer: Callable[[Array], Array] | None,
    kernel: Array | None,
    disc_weight: float,
    disc_factor: Array | float,
    average: Average,
) -> tuple[Array | float, dict[str, Array], PyTree]:
    """(the generator's adversarial term, its metrics, new batch_stats).

    It is (0, {}, batch_stats) without a discriminator.
    """
    if discriminate is None:
        return 0.0, {}, batch_stats

    def g_fn(images: Array) -> Array:
        return -jnp.mean(discriminate(batch_stats, images)[0])

    logits, batch_stats = discriminate(batch_stats, x_rec)
    g_loss = -jnp.mean(logits)
    d_weight = adaptive_weight(nll_fn, g_fn, last_layer, kernel, disc_weight, average)
    metrics = {"d_weight": d_weight, "disc_factor": jnp.asarray(disc_factor, jnp.float32), "g_loss": g_loss}
    return d_weight * disc_factor * g_loss, metrics, batch_stats


def generator_loss_kl(
    x: Array,
    x_rec: Array,
    posterior,
    *,
    logvar: Array | float = 0.0,
    learn_logvar: bool = False,
    perceptual: Perceptual | None = None,
    perceptual_weight: float = 1.0,
    kl_weight: float = 1e-6,
    weights: Array | None = None,
    discriminate: Discriminate | None = None,
    batch_stats: PyTree = None,
    last_layer: Callable[[Array], Array] | None = None,
    kernel: Array | None = None,
    disc_weight: float = 0.5,
    disc_factor: Array | float = 1.0,
    average: Average = _alone,
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """(loss 0-d float32, (metrics, batch_stats)) of AutoencoderKL; has_aux form of jax.value_and_grad.

    x, x_rec: [B, H, W, C] float32 in [-1, 1]. posterior: DiagonalGaussian. The nll is SUMMED over pixels and
    channels and divided by B, so is the KL; the perceptual distance therefore counts H W C times. logvar:
    0-d, log of the output's scale; it gets a gradient with learn_logvar only (the original never trains it).
    weights: broadcastable to x, on the nll, not in d_weight. last_layer, kernel: from `last_layer_of`, needed
    with `discriminate`. disc_factor: from the function of that name. metrics: total_loss, logvar, kl_loss,
    nll_loss, rec_loss, and with a discriminator d_weight, disc_factor, g_loss.
    """
    logvar = jnp.asarray(logvar, jnp.float32)
    logvar = logvar if learn_logvar else jax.lax.stop_gradient(logvar)

    def pixel_nll(x_rec: Array, logvar: Array) -> tuple[Array, Array]:
        rec, _ = reconstruction_error(x, x_rec, perceptual, perceptual_weight)
        return rec / jnp.exp(logvar) + logvar, rec

    def nll_fn(x_rec: Array) -> Array:
        return pixel_nll(x_rec, jax.lax.stop_gradient(logvar))[0].sum() / x.shape[0]

    nll, rec = pixel_nll(x_rec, logvar)
    nll_loss = nll.sum() / x.shape[0]
    weighted_nll = nll_loss if weights is None else (weights * nll).sum() / x.shape[0]
    kl_loss = posterior.kl().mean()
    adversarial, metrics, batch_stats = _adversarial(
        nll_fn, x_rec, discriminate, batch_stats, last_layer, kernel, disc_weight, disc_factor, average
    )
    loss = weighted_nll + kl_weight * kl_loss + adversarial
    metrics |= {
        "total_loss": loss,
        "logvar": logvar,
        "kl_loss": kl_loss,
        "nll_loss": nll_loss,
        "rec_loss": rec.mean(),
    }
    return loss, (metrics, batch_stats)


def generator_loss_vq(
    x: Array,
    x_rec: Array,
    quantized,
    *,
    n_embed: int | None = None,
    pixel_loss: str = "l1",
    perceptual: Perceptual | None = None,
    perceptual_weight: float = 1.0,
    codebook_weight: float = 1.0,
    discriminate: Discriminate | None = None,
    batch_stats: PyTree = None,
    last_layer: Callable[[Array], Array] | None = None,
    kernel: Array | None = None,
    disc_weight: float = 0.8,
    disc_factor: Array | float = 1.0,
    average: Average = _alone,
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """(loss 0-d float32, (metrics, batch_stats)) of VQModel; as `generator_loss_kl`, but every reduction is a
    MEAN.

    quantized: models.quantize.Quantized. metrics: total_loss, quant_loss, nll_loss, rec_loss, p_loss, with a
    discriminator d_weight, disc_factor, g_loss, and with n_embed, the size of the codebook, perplexity and
    cluster_usage.
    """

    def nll_fn(x_rec: Array) -> Array:
        return reconstruction_error(x, x_rec, perceptual, perceptual_weight, pixel_loss)[0].mean()

    rec, distance = reconstruction_error(x, x_rec, perceptual, perceptual_weight, pixel_loss)
    nll_loss = rec.mean()
    adversarial, metrics, batch_stats = _adversarial(
        nll_fn, x_rec, discriminate, batch_stats, last_layer, kernel, disc_weight, disc_factor, average
    )
    loss = nll_loss + adversarial + codebook_weight * quantized.loss
    metrics |= {
        "total_loss": loss,
        "quant_loss": quantized.loss,
        "nll_loss": nll_loss,
        "rec_loss": rec.mean(),
        "p_loss": distance.mean(),
    }
    if n_embed is not None:
        metrics["perplexity"], metrics["cluster_usage"] = perplexity(quantized.indices, n_embed, average)
    return loss, (metrics, batch_stats)


# By what a first stage is trained with, its `losses`.
GENERATOR_LOSSES = {"kl": generator_loss_kl, "vq": generator_loss_vq}


def discriminator_loss(
    x: Array,
    x_rec: Array,
    *,
    discriminate: Discriminate,
    batch_stats: PyTree = None,
    disc_loss: str = "hinge",
    disc_factor: Array | float = 1.0,
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """(loss 0-d float32, (metrics, batch_stats)) of the discriminator; real and fake pass one after the
    other.

    x, x_rec: [B, H, W, C] float32 in [-1, 1]; no gradient reaches x_rec. metrics: disc_loss, logits_real,
    logits_fake.
    Raises: ValueError for a disc_loss that is neither 'hinge' nor 'vanilla'.
    """
    if disc_loss not in DISCRIMINATOR_LOSSES:
        raise ValueError(f"disc_loss: got {disc_loss!r}, expected one of {sorted(DISCRIMINATOR_LOSSES)}")
    logits_real, batch_stats = discriminate(batch_stats, x)
    logits_fake, batch_stats = discriminate(batch_stats, jax.lax.stop_gradient(x_rec))
    loss = disc_factor * DISCRIMINATOR_LOSSES[disc_loss](logits_real, logits_fake)
    metrics = {"disc_loss": loss, "logits_real": logits_real.mean(), "logits_fake": logits_fake.mean()}
    return loss, (metrics, batch_stats)
