"""Our side of benchmarks/speed.py: one question, asked as often as the parent says, in a process of its own.

Decides which of this package's functions answer a question: sampling and decoding are pipeline.LatentDiffusion's own,
training is the network's loss with the optimizer of the configs. Who has its turn is speed.py's business.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import speed_models, speed_turns
from ldm_jax import cli, host_memory
from ldm_jax.checkpoints import bundle
from ldm_jax.distributed import parallel
from ldm_jax.inference.pipeline import LatentDiffusion, from_bundle
from ldm_jax.training.optimizer import make_optimizer
from ldm_jax.xla import utilization


def open_model(request: dict[str, Any]) -> LatentDiffusion:
    """The bundle that speed_models.write left, computing in request['dtype'], as users open it; training has float32
    parameters."""
    config = speed_models.read_config(request["model"], request["dtype"])
    params = bundle.read(Path(request["weights"]) / "bundle").params
    if request["question"] in ("gradients", "train_step"):
        return LatentDiffusion(speed_models.system_of(config), params, config["scale_factor"], config)
    kept = cli.executables() if os.environ.get("JAX_COMPILATION_CACHE_DIR") else None
    return from_bundle(bundle.Bundle(config, params, speed_models.tokenizer_of(config)), kept)


def answer(request: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[Any], dict[str, np.ndarray]]]:
    """(call, shown): call() answers the question once and waits for it; shown(what it gave) is what backends are
    compared by."""
    if request["dtype"] == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # no TF32
    given = dict(np.load(Path(request["run"]) / "inputs.npz"))
    return ANSWERS[request["question"]](open_model(request), given, request)


def forward(model: LatentDiffusion, given: dict, request: dict):
    predict, _ = speed_models.network_programs(model.system.unet)
    program = jax.jit(predict, compiler_options=parallel.compiler_options(jax.devices()))
    args = jax.device_put((model.params["unet"], given["x"], given["t"], speed_models.cond_of(given)))
    return lambda: jax.block_until_ready(program(*args)), lambda out: dict(
        prediction=np.asarray(out, np.float32)
    )


def _loss(model: LatentDiffusion, given: dict) -> tuple[Callable, tuple]:
    """(the loss, its arguments but the parameters)."""
    _, loss = speed_models.network_programs(model.system.unet)
    return loss, jax.device_put((given["x"], given["t"], speed_models.cond_of(given), given["noise"]))


def gradients(model: LatentDiffusion, given: dict, request: dict):
    loss, batch = _loss(model, given)
    program = jax.jit(jax.value_and_grad(loss), compiler_options=parallel.compiler_options(jax.devices()))

    def shown(out):
        value, grads = out
        first = np.asarray(grads["conv_in"]["kernel"]).transpose(3, 2, 0, 1)  # as torch has it
        return dict(loss=np.asarray(value), norm=np.asarray(optax.global_norm(grads)), conv_in=first)

    return lambda: jax.block_until_ready(program(model.params["unet"], *batch)), shown


def train_step(model: LatentDiffusion, given: dict, request: dict):
    loss, batch = _loss(model, given)
    tx = make_optimizer("adamw", request["learning_rate"])

    def step(params, opt_state, *batch):
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    program = jax.jit(step, donate_argnums=(0, 1), compiler_options=parallel.compiler_options(jax.devices()))
    state = [jax.tree.map(jnp.copy, model.params["unet"]), jax.jit(tx.init)(model.params["unet"])]

    def call():
        *state[:], value = program(*state, *batch)
        return jax.block_until_ready((value, state[0]))[0]

    def shown(value):
        change = jax.tree.map(jnp.subtract, state[0], model.params["unet"])
        return dict(loss=np.asarray(value), change=np.asarray(optax.global_norm(change)))

    return call, shown


def decode(model: LatentDiffusion, given: dict, request: dict):
    latents = jax.device_put(given["latents"])
    return lambda: model.decode(latents), lambda images: dict(images=images)


def sampling(model: LatentDiffusion, given: dict, request: dict):
    """LatentDiffusion.sample as users call it: text encoder, sampler, first stage, and uint8 on the host."""
    conditions = dict(prompts=["the one caption"]) if "tokens" in given else {}
    scale = request["guidance_scale"] if conditions else 1.0
    settings = dict(num_steps=request["steps"], guidance_scale=scale, batch_size=request["batch_size"])
    return (
        lambda: model.sample(seeds=given["seeds"], **conditions, **settings),
        lambda pictures: dict(pictures=pictures),
    )


ANSWERS = dict(forward=forward, gradients=gradients, train_step=train_step, decode=decode, sampling=sampling)


def facts() -> dict[str, Any]:
    """Versions, and the device that it ran on."""
    device = jax.devices()[0]
    return dict(
        versions=speed_turns.versions("jax", "jaxlib", "flax"),
        device=None if device.platform == "cpu" else device.device_kind,
        peak_flops=utilization.peak_flops([device]),
        compilation_cache=bool(os.environ.get("JAX_COMPILATION_CACHE_DIR")),
    )


def main() -> None:
    host_memory.keep_freed()  # as the console commands do
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cli.use_compilation_cache()
    speed_turns.serve("jax", sys.argv[1], answer, facts)


if __name__ == "__main__":
    main()
