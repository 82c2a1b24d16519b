"""The models that benchmarks/speed.py times: their configs, random weights on disk, and what each question is asked
with.

Decides names and sizes, how weights are drawn, and which arrays both backends are given. Weights are drawn as ours and
written twice, as a bundle and, by this package's own converter, as a diffusers folder: both backends then open files,
as their users do. It times nothing.
"""

import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs import base as config_base
from ldm_jax.checkpoints import write as export
from ldm_jax.checkpoints.base import Checkpoint
from ldm_jax.config import conditioning_kinds, conditioning_section, load_config
from ldm_jax.models.layers import timestep_embedding
from ldm_jax.models.unet import UNet, apply_unet
from ldm_jax.samplers import base as samplers
from ldm_jax.system import System, make_system
from ldm_jax.types import Cond, PyTree
from ldm_jax.xla import flops

ROOT = Path(__file__).resolve().parent.parent
# name: the config and its argument. The tiny ones, which tests run, are the configs' own reductions to eight channels,
# and here to two levels.
CONFIGS = {
    "tiny": ("sd1", "runlocal"),
    "tiny_sdxl": ("sdxl_base", "runlocal"),
    "tiny_ldm4": ("celebahq_ldm4", "runlocal"),
    "sd1": ("sd1", ""),
    "sdxl": ("sdxl_base", ""),
    "ldm4": ("celebahq_ldm4", ""),
}
# The yardstick on CPUs: Stable Diffusion 1's network at a fifth of its width, on latents of 32 x 32.
SMALL = dict(
    image_size=256,
    first_stage=dict(config_base.FIRST_STAGES["kl_f8"], channels=64),
    scale_factor=0.18215,
    model=dict(config_base.SD, channels=64, num_heads=8, context_dim=256),
    conditioning=dict(config_base.CLIP_L, name="clip", width=256, num_layers=4, num_heads=4),
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.00085, beta_end=0.012),
    prediction_type="eps",
)
# The shapes text model's, at the batch that it is trained with. diffusers' network resamples by convolutions and has no
# coordinates.
SHAPES = dict(
    image_size=64,
    first_stage=config_base.SHAPES_FIRST_STAGE,
    scale_factor=0.275,
    model=dict(config_base.SHAPES_UNET, conv_resample=True, coordinates=False),
    conditioning=dict(name="clip", width=128, num_layers=2, num_heads=4, max_length=20),
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195),
    prediction_type="eps",
)
OWN = dict(small=SMALL, shapes=SHAPES)
QUESTIONS = ("forward", "gradients", "train_step", "sampling", "decode")
LENGTH_OF_BLOCK = 1_048_573  # a prime, so that no row of a matrix repeats another
TINY_VOCABULARY = 64


def read_config(name: str, dtype: str = "float32") -> dict[str, Any]:
    """The config of a second stage, sampled with DDIM at diffusers' timesteps, computing in dtype, with nothing
    recomputed."""
    if name in OWN:
        config = json.loads(json.dumps(OWN[name]))
    else:
        config = load_config(":".join(CONFIGS[name]))
    if name.startswith("tiny"):
        _cut_levels(config)
    config |= dict(task="diffusion", dtype=dtype, model=config["model"] | dict(remat=None))
    config["sampling"] = dict(sampler="ddim", spacing="leading", eta=0.0)
    kinds = conditioning_kinds(config.get("conditioning"))
    for options in kinds.values():
        options.pop("tokenizer", None)
        options.setdefault("vocab_size", TINY_VOCABULARY if name.startswith("tiny") else 49408)
    config["conditioning"] = conditioning_section(kinds) or {}
    return config


def _cut_levels(config: dict[str, Any], levels: int = 2) -> None:
    """Leaves the first levels of both networks, and pictures of 8 x 8 latents."""
    model, first_stage = config["model"], config["first_stage"]
    for network in (model, first_stage):
        network["channel_mult"] = network["channel_mult"][:levels]
        network["attention_levels"] = [level for level in network["attention_levels"] if level < levels]
    if isinstance(model.get("transformer_depth"), list):
        model["transformer_depth"] = model["transformer_depth"][:levels]
    config["image_size"] = 8 * 2 ** (levels - 1)


class FixedTokens:
    """What System takes for a tokenizer: of every caption but the empty one the same random ids, of that one its end
    alone.

    A caption fills all places, so that nothing is padded, and ends where the two text models of SDXL both see its end.
    """

    def __init__(self, options: Mapping[str, Any]):
        self.vocab_size, self.length = options["vocab_size"], options.get("max_length", 77)
        end = options.get("eos_id") or self.vocab_size - 1
        caption = np.random.default_rng(0).integers(4, self.vocab_size - 1, self.length)
        caption[-1] = end
        self.ids = {False: caption.tolist(), True: [4] + [end] * (self.length - 1)}
        self.padding, self.truncation = dict(pad_id=end), dict(max_length=self.length)
        self.model = None  # of no closed vocabulary, whose unknown words are told

    def get_vocab_size(self) -> int:
        return self.vocab_size

    def get_added_tokens_decoder(self) -> dict:
        return {}

    def encode_batch(self, captions: Sequence[str]) -> list[SimpleNamespace]:
        return [SimpleNamespace(ids=self.ids[caption == ""], overflowing=[]) for caption in captions]


def tokenizer_of(config: Mapping[str, Any]) -> FixedTokens | None:
    """None for an unconditional model."""
    kinds = list(conditioning_kinds(config.get("conditioning")).values())
    return FixedTokens(kinds[0]) if kinds else None


def system_of(config: Mapping[str, Any]) -> System:
    return make_system(config, tokenizer_of(config))


def draw(shapes: PyTree, seed: int = 0) -> PyTree:
    """Numpy arrays float32 of these shapes, of about the size that trained ones have; none is all zero, as a fresh
    network's last.

    Each is cut out of one block of normal numbers, which takes a second where drawing the parameters of SDXL takes
    minutes.
    """
    block = np.random.default_rng(seed).standard_normal(LENGTH_OF_BLOCK).astype(np.float32)

    def one(path, leaf):
        name = "/".join(str(part.key) for part in path)
        values = np.resize(np.roll(block, zlib.crc32(name.encode()) % LENGTH_OF_BLOCK), leaf.shape)
        if len(leaf.shape) > 1:
            return values / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        return values * np.float32(0.1) + np.float32(name.endswith("scale"))

    return jax.tree_util.tree_map_with_path(one, shapes)


def write(folder: Path, name: str) -> None:
    """folder/bundle and folder/diffusers, unless they are there: one model of random float32 weights in two layouts."""
    config = read_config(name)
    if (folder / "diffusers").is_dir():
        return
    params = draw(system_of(config).param_shapes())
    whole = Checkpoint(config, params, None, "bundle")
    for target in ("bundle", "diffusers"):
        export.write(whole, folder / target, target, overwrite=True)


def inputs(system: System, question: str, batch_size: int) -> dict[str, np.ndarray]:
    """What both backends are given, by name; images and latents NHWC.

    forward: x [B,h,w,c], t [B], context [B,L,D] and vector [B,V] as the network wants them, text_embeds and time_ids of
    which
    SDXL's vector is made. gradients, train_step: noise as well. decode: latents, scaled. sampling: tokens, null_tokens
    [B,L], time_ids [B,6], which SDXL reads, seeds [B], x_T [B,h,w,c], the noise that our sampler draws from these
    seeds.
    """
    rng = np.random.default_rng(1)
    shape = (batch_size, *system.latent_shape)

    def normal(*sizes):
        return rng.standard_normal(sizes).astype(np.float32)

    if question == "decode":
        return dict(latents=normal(*shape))
    if question == "sampling":
        seeds = np.arange(batch_size, dtype=np.uint32)
        noise = samplers.step_noise(jax.vmap(jax.random.key)(seeds), shape, "x_T")
        tokens = {}
        if system.tokenizer is not None:
            ids = system.tokenizer.ids
            tokens = dict(
                tokens=np.int64([ids[False]] * batch_size),
                null_tokens=np.int64([ids[True]] * batch_size),
                time_ids=_sizes(system, batch_size),
            )
        return tokens | dict(seeds=seeds, x_T=np.asarray(noise))
    given = dict(
        x=normal(*shape), t=rng.integers(0, system.schedule.num_timesteps, batch_size).astype(np.int32)
    )
    if system.unet.context_dim:
        given["context"] = normal(batch_size, system.tokenizer.length, system.unet.context_dim)
    if system.unet.vector_dim:
        given |= _sdxl_vector(system, normal, batch_size)
    if question != "forward":
        given["noise"] = normal(*shape)
    return given


def _sizes(system: System, batch_size: int) -> np.ndarray:
    """[B, 6] float32: original size, crop and target size of pictures as large as the model was trained at."""
    return np.tile(np.float32([*system.image_shape, 0, 0, *system.image_shape]), (batch_size, 1))


def _sdxl_vector(system: System, normal: Any, batch_size: int) -> dict[str, np.ndarray]:
    sizes = _sizes(system, batch_size)
    width = system.parts[0].conditioner.size_width
    embedded = np.asarray(timestep_embedding(sizes.reshape(-1), width)).reshape(batch_size, -1)
    pooled = normal(batch_size, system.unet.vector_dim - embedded.shape[1])
    return dict(text_embeds=pooled, time_ids=sizes, vector=np.concatenate([pooled, embedded], axis=1))


def network_programs(unet: UNet) -> tuple[Callable, Callable]:
    """(predict, loss): predict(params, x, t, cond) is the network's answer, loss(params, x, t, cond, noise) its mean
    squared error."""

    def predict(params, x, t, cond):
        return apply_unet(unet, params, x, t, cond)[0]

    def loss(params, x, t, cond, noise):
        return jnp.mean(jnp.square(predict(params, x, t, cond) - noise))

    return predict, loss


def cond_of(given: Mapping[str, Any]) -> Cond:
    """The Cond of `inputs` of forward, gradients and train_step."""
    return Cond(context=given.get("context"), vector=given.get("vector"))


def model_flops(system: System, shapes: PyTree, question: str, batch_size: int, steps: int) -> int:
    """FLOPs that the answer needs, nothing recomputed: of products and convolutions; a training step is three
    predictions.

    shapes: of System.param_shapes.
    """
    latent, shape = (batch_size, *system.latent_shape), jax.ShapeDtypeStruct

    def decoding() -> int:
        return flops.count(system.first_stage.decode, shapes["first_stage"], shape(latent, jnp.float32))

    def network(batch: int) -> int:
        given = inputs(system, "forward", 1)
        given = {k: shape((batch, *v.shape[1:]), v.dtype) for k, v in given.items()}
        predict, _ = network_programs(system.unet)
        return flops.count(predict, shapes["unet"], given["x"], given["t"], cond_of(given))

    if question == "decode":
        return decoding()
    if question == "sampling":
        if not system.parts:
            return steps * network(batch_size) + decoding()
        encoded = {k: shape(v.shape, v.dtype) for k, v in system.null_inputs(2 * batch_size).items()}
        return steps * network(2 * batch_size) + decoding() + flops.count(system.condition, shapes, encoded)
    return network(batch_size) * (1 if question == "forward" else 3)


def facts(system: System, question: str, batch_size: int, steps: int) -> dict[str, Any]:
    """What a result says of the model: its network's parameters, the shapes of the latents and of the picture,
    FLOPs."""
    shapes = system.param_shapes()
    leaves = jax.tree.leaves(shapes["unet"])
    return dict(
        unet_parameters=sum(int(np.prod(leaf.shape)) for leaf in leaves),
        latents=[batch_size, *system.latent_shape],
        pictures=[batch_size, *system.image_shape, 3],
        context=[system.tokenizer.length, system.unet.context_dim] if system.unet.context_dim else None,
        model_flops=model_flops(system, shapes, question, batch_size, steps),
    )


def prepare(request: Mapping[str, Any]) -> None:
    """Writes what the backends are about to open: the weights in request['weights'], the rest in request['run']."""
    write(Path(request["weights"]), request["model"])
    system, run = system_of(read_config(request["model"])), Path(request["run"])
    np.savez(run / "inputs.npz", **inputs(system, request["question"], request["batch_size"]))
    said = facts(system, request["question"], request["batch_size"], request["steps"])
    (run / "facts.json").write_text(json.dumps(said))


if __name__ == "__main__":
    prepare(json.loads(sys.argv[1]))
