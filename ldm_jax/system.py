"""From a config to the parts of a latent diffusion model: which modules, with which options. It knows no data and no loop.

A config's sections `first_stage`, `model`, `conditioning` and `schedule` are plain data: a `name` that says which, and
the options of that one's constructor. An option that it does not have is an error that lists those it has.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.conditioning import text as text_conditioning
from ldm_jax.diffusion.schedule import NoiseSchedule, make_schedule
from ldm_jax.find import find
from ldm_jax.models import autoencoder
from ldm_jax.models.unet import UNet
from ldm_jax.types import Array, Cond, PyTree

FIRST_STAGES = {
    "kl": autoencoder.AutoencoderKL,
    "vq": autoencoder.VQModel,
    "identity": autoencoder.IdentityFirstStage,
}


def call(fn: Callable, options: Mapping[str, Any], what: str, *, then: Callable | None = None, **more) -> Any:
    """fn(**options, **more), with lists made tuples.

    then: the function that fn hands its **options on to, whose options therefore count as well.
    Raises: ValueError "model has no option 'chanels'; it has: …" for an option that neither takes or that is not the
    config's to give, and for one that is missing.
    """
    known = [k for k in _options(fn) + (_options(then) if then else []) if k not in more]
    for name in options:
        if name not in known:
            raise ValueError(f"{what} has no option {name!r}; it has: {', '.join(known)}")
    arguments = more | {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        inspect.signature(fn).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from None
    return fn(**arguments)


def _options(fn: Callable) -> list[str]:
    """The names of fn's arguments, but for those that every linen module has."""
    hidden = ("parent", "name") if isinstance(fn, type) and issubclass(fn, nn.Module) else ()
    parameters = inspect.signature(fn).parameters.items()
    return [name for name, p in parameters if name not in hidden and p.kind is not p.VAR_KEYWORD]


def pick(section: Mapping[str, Any] | None, what: str, known: Mapping[str, Any]) -> tuple[Any, dict]:
    """The entry of `known` that the section's `name` says, and the section's other keys.

    Raises: ValueError listing `known`.
    """
    options = dict(section or {})
    name = options.pop("name", None)
    if name not in known:
        raise ValueError(f"{what} {name!r} not found; there are: {', '.join(known)}")
    return known[name], options


class FirstStage(NamedTuple):
    """module: linen, owns encode and decode. factor: pixels per latent cell. channels: of a latent."""

    name: str
    module: Any
    factor: int
    channels: int

    def init(self, key: Array, size: int = 0) -> PyTree:
        """Fresh parameters. size: the side of the image that shapes are inferred with; the factor's fourfold by default."""
        if self.name == "identity":
            return {}
        side = size or 4 * self.factor
        return jax.jit(self.module.init)(
            key, jnp.zeros((1, side, side, self.module.in_channels)), jax.random.key(0)
        )["params"]

    def encode(self, params: PyTree, images: Array) -> Array:
        """images [B,H,W,C] in [-1,1] -> what encoding gives: moments [B,h,w,2c] of a KL model, else latents [B,h,w,c]."""
        return self.module.apply({"params": params}, images, method="encode")

    def decode(self, params: PyTree, z: Array) -> Array:
        """z [B,h,w,c], not scaled -> images [B,H,W,C] float32, about [-1,1]."""
        return self.module.apply({"params": params}, z, method="decode").astype(jnp.float32)


def make_first_stage(section: Mapping[str, Any], dtype: str = "float32") -> FirstStage:
    """Raises: ValueError for an unknown name or option."""
    cls, options = pick(section, "first_stage", FIRST_STAGES)
    if section["name"] == "identity":
        return FirstStage(
            "identity", call(cls, options, "first_stage identity"), 1, options.get("in_channels", 3)
        )
    module = call(cls, options, f"first_stage {section['name']!r}", dtype=jnp.dtype(dtype))
    return FirstStage(section["name"], module, 2 ** (len(module.channel_mult) - 1), module.embed_dim)


class System(NamedTuple):
    """The second stage and what it stands on.

    conditioner: linen module, inputs (dict of arrays) -> Cond; None for an unconditional model.
    null_inputs: batch size -> the unconditional inputs, or None.
    tokenizer: of a text model, else None.
    """

    first_stage: FirstStage
    unet: UNet
    conditioner: Any
    conditioning: str | None
    schedule: NoiseSchedule
    prediction_type: str
    tokenizer: Any
    image_size: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.image_size // self.first_stage.factor
        return side, side, self.first_stage.channels

    def condition(
        self,
        params: PyTree,
        inputs: Mapping[str, Array] | None,
        deterministic: bool = True,
        key: Array | None = None,
    ) -> Cond:
        """inputs: of this model's conditioning, leading axis B. Returns what the network is conditioned on."""
        if self.conditioner is None:
            return Cond()
        rngs = {} if key is None else {"dropout": key}
        return self.conditioner.apply({"params": params}, inputs, deterministic=deterministic, rngs=rngs)

    def inputs(self, values) -> dict[str, Array] | None:
        """values: captions of a text model, labels of a class model, each one per image."""
        if self.conditioning == "text":
            return text_conditioning.tokenize(values, self.tokenizer)
        if self.conditioning == "class_label":
            return find("conditioning", "class_label").inputs(values, self.conditioner.num_classes)
        return None

    def null_inputs(self, batch_size: int) -> dict[str, Array] | None:
        """The inputs that say nothing: the empty caption, the null class."""
        if self.conditioning == "text":
            return text_conditioning.null_inputs(batch_size, self.tokenizer)
        if self.conditioning == "class_label":
            return find("conditioning", "class_label").null_inputs(batch_size, self.conditioner.num_classes)
        return None

    def init(self, key: Array) -> PyTree:
        """Fresh parameters of the network and its conditioner: {'unet': …, 'conditioner': …}."""
        unet_key, conditioner_key = jax.random.split(key)
        inputs = self.null_inputs(1)
        params = {}
        if self.conditioner is not None:
            params["conditioner"] = jax.jit(self.conditioner.init)(conditioner_key, inputs).get("params", {})
        cond = self.condition(params.get("conditioner", {}), inputs)
        x = jnp.zeros((1, *self.latent_shape))
        params["unet"] = jax.jit(self.unet.init)(unet_key, x, jnp.zeros(1, jnp.int32), cond)["params"]
        return params


def make_tokenizer(section: Mapping[str, Any]) -> Any:
    """section: name 'word_level' (words, max_length), 'wordpiece' (vocab_file, max_length) or 'file' (path).

    Raises: ValueError for another name; FileNotFoundError for a vocabulary that is not there.
    """
    kinds = {
        "word_level": text_conditioning.word_level_tokenizer,
        "wordpiece": text_conditioning.wordpiece_tokenizer,
        "file": text_conditioning.load_tokenizer,
    }
    make, options = pick(section, "tokenizer", kinds)
    return call(make, options, f"tokenizer {section['name']!r}")


def make_system(config: Mapping[str, Any], tokenizer: Any = None) -> System:
    """Builds every part that a second-stage config names.

    tokenizer: that of a bundle; None makes the one that the config describes.
    Raises: ValueError for an unknown name or option, or an image size that the first stage's factor does not divide.
    """
    dtype = config.get("dtype", "float32")
    first_stage = make_first_stage(config["first_stage"], dtype)
    autoencoder.check_size(config["image_size"], config["image_size"], first_stage.factor)
    unet = call(UNet, dict(config["model"]), "model", dtype=jnp.dtype(dtype))
    conditioner, conditioning = None, None
    if config.get("conditioning"):
        options = dict(config["conditioning"])
        conditioning = options.pop("name", None)
        tokenizer_section = options.pop("tokenizer", None)
        if conditioning == "text" and tokenizer is None:
            tokenizer = make_tokenizer(tokenizer_section)
        if conditioning == "text":
            options.setdefault("vocab_size", tokenizer.get_vocab_size())
        conditioner = call(
            find("conditioning", conditioning).Conditioner, options, f"conditioning {conditioning!r}"
        )
    schedule = call(make_schedule, dict(config["schedule"]), "schedule")
    return System(
        first_stage,
        unet,
        conditioner,
        conditioning,
        schedule,
        config.get("prediction_type", "eps"),
        tokenizer,
        config["image_size"],
    )
