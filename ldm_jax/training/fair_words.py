"""Learns words that, said before a prompt, make a model draw groups as often as they should be drawn.

Decides which picture is to become which group, the loss, and how a gradient comes through a run of the sampler. What a
group is says a classifier that the caller brings. The words are a delta of personalization/textual_inversion.py, saved
and used like any other.
Source: Shen et al. 2024 (arXiv:2311.07604), sections 4.1 and 4.2, and sail-sg/finetune-fair-diffusion. Distributional
alignment: groups that pictures would have under the target are drawn at random, pictures are matched with them by their
classes' probabilities so that least has to change, and a picture learns the group that it is matched with in .8 of the
draws or more. Beside it pictures are to stay what they are without the words. The gradient is the adjusted one: what
the network is handed at a step is held fast, and the gradient by each step's eps has its weight, so that all count
alike.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import linear_sum_assignment

from ldm_jax.checkpoints import words as vocabulary
from ldm_jax.checkpoints.adapters import Adapter
from ldm_jax.checkpoints.base import Bundle
from ldm_jax.diffusion import process
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.diffusion.timesteps import uniform
from ldm_jax.inference.program import coders
from ldm_jax.models import latent_scale
from ldm_jax.models.controlnet import apply_network
from ldm_jax.personalization import base
from ldm_jax.samplers.base import keys_of, step_noise
from ldm_jax.system import System, make_system
from ldm_jax.types import KEY_IMPL, Array, PyTree

CERTAIN, DRAWS = 0.8, 100
KEEP, FLIPPED = 8.0, 0.2  # the weight of staying alike, and that of a picture whose group is to change


class Judge(NamedTuple):
    """classify: images [N, H, W, 3] in about [-1, 1] -> logits [N, K] of the groups. describe: images -> [N, D], what
    is to stay."""

    classify: Callable[[Array], Array]
    describe: Callable[[Array], Array]


def targets(probs: np.ndarray, wished: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(group [N] that each picture is to have, [N] bool whether it is certain). probs: [N, K]. wished: [K] shares."""
    number, groups = probs.shape
    counts = np.zeros_like(probs)
    for _ in range(DRAWS):
        drawn = rng.choice(groups, number, p=wished)
        costs = ((probs[:, None] - np.eye(groups)[drawn]) ** 2).sum(-1)
        rows, columns = linear_sum_assignment(costs)
        counts[rows, drawn[columns]] += 1
    return counts.argmax(1), counts.max(1) >= CERTAIN * DRAWS


def step_weights(schedule, visited: Array) -> Array:
    """[S] of geometric mean 1: sqrt(a (1 - a)) / beta of each visited timestep."""
    a = schedule.alphas_cumprod[visited]
    weights = jnp.sqrt(a * (1 - a)) / schedule.betas[visited]
    return weights / jnp.exp(jnp.log(weights).mean())


def draw(denoiser: Denoiser, x: Array, scale: float) -> Array:
    """The latents [N, h, w, c] that DDIM makes of noise x, with a gradient that goes through each step's eps alone."""
    visited, weights = denoiser.visited, step_weights(denoiser.schedule, denoiser.visited)
    leads = jnp.append(visited[1:], -1)

    @jax.checkpoint
    def step(x, at):
        t, to, weight = at
        held, now = jax.lax.stop_gradient(x), jnp.full(len(x), t)
        eps = denoiser.eps(held, now, denoiser.cond)[0]
        if denoiser.uncond is not None:
            other = denoiser.eps(held, now, denoiser.uncond)[0]
            eps = other + scale * (eps - other)
        eps = weight * eps + jax.lax.stop_gradient((1 - weight) * eps)
        levels = (process.log_alpha_bar(denoiser.schedule, s, x) for s in (t, to))
        return process.transfer(x, eps, *levels), None

    return jax.lax.scan(step, x, (visited, leads, weights))[0]


def loss(logits: Array, seen: Array, plain: Array, group: Array, certain: Array, same: Array) -> Array:
    """[]: the cross-entropy of certain pictures, and how far all are from what they are without the words.

    logits: [N, K]. seen, plain: [N, D], with the words and without. group: [N] int. certain, same: [N] bool; same:
    whether the picture has its group already.
    """
    own = optax.softmax_cross_entropy_with_integer_labels(logits, group)
    lengths = jnp.maximum(jnp.linalg.norm(seen, axis=-1) * jnp.linalg.norm(plain, axis=-1), 1e-6)
    apart = 1 - (seen * plain).sum(-1) / lengths
    weights = KEEP * jnp.where(same | ~certain, 1.0, FLIPPED)
    return (certain * own).sum() / jnp.maximum(certain.sum(), 1) + (weights * apart).mean()


def tune(
    model: Bundle,
    prompts: Sequence[str],
    judge: Judge,
    wished: Sequence[float],
    *,
    token: str = "<fair>",
    vectors: int = 5,
    number: int = 24,
    num_steps: int = 200,
    sampling_steps: int = 20,
    guidance_scale: float = 1.0,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[int, float, np.ndarray], None] = lambda step, loss, shares: None,
) -> Adapter:
    """The words after num_steps of AdamW, each on `number` pictures of one of the prompts.

    wished: [K] shares of the groups. report: (step, loss, shares [K] of the groups in this step's pictures). Raises:
    ValueError for no prompts, shares that do not sum to 1, or numbers below 1.
    """
    shares = np.asarray(wished, np.float64)
    if (
        not prompts
        or not np.isclose(shares.sum(), 1)
        or (shares < 0).any()
        or min(number, num_steps, vectors) < 1
    ):
        raise ValueError(
            f"fair_words: got {len(prompts)} prompts, shares {list(wished)}, {number} pictures, {num_steps} steps and "
            f"{vectors} vectors, expected some prompts, shares that sum to 1 and numbers of at least 1"
        )
    section = dict(name="textual_inversion", token=token, vectors=vectors)
    told = vocabulary.add(model, base.new_words(section))
    system = make_system(told.config, told.tokenizer)
    params = jax.tree.map(jnp.asarray, told.params)
    delta = base.init_delta(section, jax.random.key(seed, impl=KEY_IMPL), params)
    run = make_run(system, told, sampling_steps, guidance_scale)
    tx, rng = optax.adamw(learning_rate, weight_decay=0.0), np.random.default_rng(seed)
    state = tx.init(delta)
    inputs = [[_inputs(system, f"{prefix}{p}", number) for p in prompts] for prefix in (f"{token} ", "")]

    # The model is an argument of each program: what a program closes over is written into it.
    def drawn(params, delta, inputs, seeds):
        return run(base.merge_delta(section, params, delta), inputs, seeds)

    look = jax.jit(lambda params, delta, inputs, seeds: judge.classify(drawn(params, delta, inputs, seeds)))
    describe = jax.jit(lambda params, inputs, seeds: judge.describe(run(params, inputs, seeds)))

    @jax.jit
    def step(params, delta, state, inputs, seeds, plain, group, certain, same):
        def of(delta):
            images = drawn(params, delta, inputs, seeds)
            return loss(judge.classify(images), judge.describe(images), plain, group, certain, same)

        value, gradient = jax.value_and_grad(of)(delta)
        updates, state = tx.update(gradient, state, delta)
        return optax.apply_updates(delta, updates), state, value

    for i in range(num_steps):
        which = rng.integers(len(prompts))
        seeds = rng.integers(1 << 31, size=number, dtype=np.uint32)
        probs = np.asarray(jax.nn.softmax(look(params, delta, inputs[0][which], seeds)), np.float64)
        group, certain = targets(probs, shares, rng)
        plain = describe(params, inputs[1][which], seeds)
        same = probs.argmax(1) == group
        given = inputs[0][which], seeds, plain, group, certain, same
        delta, state, value = step(params, delta, state, *given)
        report(i + 1, float(value), np.bincount(probs.argmax(1), minlength=len(shares)) / number)
    return Adapter(section, jax.tree.map(np.asarray, delta), "")


def _inputs(system: System, prompt: str, number: int) -> dict[str, np.ndarray]:
    return system.inputs({"prompts": [prompt] * number})


def make_run(system: System, model: Bundle, sampling_steps: int, scale: float) -> Callable:
    """(params, inputs, seeds [N]) -> images [N, H, W, 3] in about [-1, 1], drawn by DDIM of eta 0."""
    unet = system.unet.clone(remat="loop")
    visited = jnp.asarray(uniform(system.schedule.num_timesteps, sampling_steps), jnp.int32)
    latents = latent_scale.of_config(model.config, system.first_stage.channels)
    null = system.null_inputs(1) if scale != 1 else None

    def run(params: PyTree, inputs: dict[str, Array], seeds: Array) -> Array:
        def network(x, t, cond, control=None):
            return apply_network(unet, params["unet"], x, t, cond, control)

        uncond = None
        if null is not None:
            wide = {k: jnp.broadcast_to(v, (len(seeds), *v.shape[1:])) for k, v in null.items()}
            uncond = system.condition(params, wide)
        cond = system.condition(params, inputs)
        decode, encode = coders(system, latents, params["first_stage"])
        about = system.schedule, system.prediction_type, visited
        denoiser = Denoiser(network, cond, uncond, *about, 1, None, decode, encode)
        x = step_noise(keys_of(seeds), (len(seeds), *system.latent_shape), "x_T")
        return denoiser.decode(draw(denoiser, x, scale))

    return run
