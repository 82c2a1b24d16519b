"""Adversarial distillation: what the student draws in one step is to be taken for a picture by heads that read the
teacher's features of it, and to be what the teacher makes of it.

Decides the timesteps, the two losses and the discriminator. Source: Sauer et al. 2023, ADD (arXiv:2311.17042), section
3; that the discriminator reads features of the noised latents in the teacher itself, in the place of DINOv2's of
decoded pictures, is Sauer et al. 2024, LADD (arXiv:2403.12015), section 3. In small: the heads are the hidden layers of
1x1 convolutions and know no more of the condition than the features do; student and discriminator take one step of
one optimizer together, each blind to the other's loss.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.diffusion.process import q_sample, signal_and_noise
from ldm_jax.diffusion.timesteps import trailing
from ldm_jax.models.projection import Projection
from ldm_jax.system import System
from ldm_jax.training.alignment import head_name, init_heads, recorder_of
from ldm_jax.training.distillation.base import Networks, Way, normal, split, uniform
from ldm_jax.types import Array, PyTree

DISCRIMINATOR = "discriminator"


def distill(
    *,
    system: System,
    num_steps: int = 4,
    distillation_weight: float = 2.5,
    gradient_penalty: float = 1e-5,
    guidance_scale: float = 1.0,
    sites: Sequence[str] = (),
    width: int = 64,
) -> Way:
    """num_steps: how many timesteps the student knows, those of the spacing 'trailing'. distillation_weight: of the
    error to the teacher. gradient_penalty: gamma of R1, on the features. guidance_scale: of the teacher where it is the
    target; 1 is off. sites, width: of the discriminator's heads, as those of loss.alignment.

    Raises: ValueError for a number of steps that cannot be.
    """
    schedule = system.schedule
    known = jnp.asarray(trailing(schedule.num_timesteps, num_steps).copy())
    recorder = recorder_of(system, sites)
    head = Projection(1, width, 1)

    def judge(heads: PyTree, features: dict[str, Array]) -> Array:
        """[B]: the mean of all heads' logits; above 0 is a picture."""
        logits = [
            head.apply({"params": heads[head_name(tap)]}, value.astype(jnp.float32)).mean(axis=(1, 2, 3))
            for tap, value in features.items()
        ]
        return jnp.stack(logits).mean(0)

    def loss(networks: Networks, x_start: Array, keys: Array) -> tuple[Array, dict[str, Array]]:
        index_key, noise_key, level_key, judged_key, t_key, target_key = split(keys, 6)
        heads = networks.params[DISCRIMINATOR]

        # 1. The student draws, in one step from one of its timesteps.
        t = known[uniform(index_key, num_steps)]
        drawn = networks.student(q_sample(schedule, x_start, t, normal(noise_key, x_start)), t).x_start

        # 2. The teacher's features of it and of the picture, noised alike.
        level, noise = uniform(level_key, schedule.num_timesteps), normal(judged_key, x_start)

        def features(x: Array) -> dict[str, Array]:
            return networks.teacher(q_sample(schedule, x, level, noise), level, control=recorder).taps

        fake, real = features(drawn), jax.lax.stop_gradient(features(x_start))

        # 3. Hinge losses: the student's through frozen heads, the heads' of frozen features, with R1.
        fooled = -judge(jax.lax.stop_gradient(heads), fake)
        seen, taken = judge(heads, real), judge(heads, jax.lax.stop_gradient(fake))
        slopes = jax.grad(lambda features: judge(heads, features).sum())(real)
        penalty = sum((slope**2).reshape(len(t), -1).sum(1) for slope in slopes.values())
        told = jax.nn.relu(1 - seen) + jax.nn.relu(1 + taken) + gradient_penalty / 2 * penalty

        # 4. What the teacher makes of the drawn picture, noised anew; it weighs alpha.
        t = uniform(t_key, schedule.num_timesteps)
        noised = q_sample(schedule, jax.lax.stop_gradient(drawn), t, normal(target_key, x_start))
        scale = jnp.full(len(t), guidance_scale) if guidance_scale != 1 else None
        wanted = jax.lax.stop_gradient(networks.teacher(noised, t, scale).x_start)
        signal, _ = signal_and_noise(schedule, t, x_start)
        errors = (signal * (drawn - wanted) ** 2).reshape(len(t), -1).mean(1)
        metrics = dict(loss_student=fooled.mean(), loss_discriminator=told.mean(), loss_teacher=errors.mean())
        return fooled + told + distillation_weight * errors, metrics

    def init(key: Array, params: PyTree) -> PyTree:
        heads = partial(init_heads, system=system, recorder=recorder, head=head, what="distillation.sites")
        return {DISCRIMINATOR: heads(key, params)}

    return Way(loss, init)
