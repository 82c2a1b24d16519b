"""From a config to the parts of a latent diffusion model: which modules, with which options. It knows no data and no
loop.

A config's sections `first_stage`, `model`, `conditioning` and `schedule` are plain data: a `name` that says which, and
the options of that one's constructor. An option that it does not have is an error that lists those it has.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning.base import Setting, merge
from ldm_jax.config import call, conditioning_kinds, options_of, pick
from ldm_jax.diffusion.schedule import NoiseSchedule, make_schedule
from ldm_jax.find import find
from ldm_jax.first_stage import FirstStage, make_first_stage
from ldm_jax.models import autoencoder, latent_scale, layers
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.models.unet import UNet
from ldm_jax.text_files import shown
from ldm_jax.types import Array, Cond, PyTree


class Part(NamedTuple):
    """One kind of conditioning of a model. name: its file in conditioning/, which `kind` is. conditioner: linen
    module."""

    name: str
    kind: ModuleType
    conditioner: Any


class System(NamedTuple):
    """The second stage and what it stands on.

    parts: the kinds of conditioning, none for an unconditional model; what they give is merged (conditioning/base.py).
    tokenizer: of a text model; None where there is none, or the config does not name its file yet.
    image_size: the side in pixels of the pictures trained on; others can be drawn (`check_shape`).
    learned_variance: the network gives twice the latent's channels, the second half of which says each step's variance
      (diffusion/learned_variance.py).
    in_parts: how many parts prompts are read in (conditioning/chunks.py).
    """

    first_stage: FirstStage
    unet: UNet
    parts: tuple[Part, ...]
    schedule: NoiseSchedule
    prediction_type: str
    tokenizer: Any
    image_size: int
    learned_variance: bool = False
    in_parts: int = 1

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W) in pixels that it was trained at."""
        return self.image_size, self.image_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(h, w, c) that it was trained at."""
        return self.latent_shape_of(self.image_shape)

    def latent_shape_of(self, image_shape: tuple[int, int]) -> tuple[int, int, int]:
        """(h, w, c) of the latents of pictures of (H, W) pixels, which the factor divides."""
        height, width = image_shape
        return height // self.first_stage.factor, width // self.first_stage.factor, self.first_stage.channels

    @property
    def size_multiple(self) -> int:
        """Pixels that a picture's height and width must be multiples of: the first stage's factor times the UNet's."""
        return self.first_stage.factor * 2 ** (len(self.unet.channel_mult) - 1)

    def shape_of(self, given: Mapping[str, Sequence]) -> tuple[int, int] | None:
        """(H, W) of the picture that the first of the spatial conditions in `given` asks for; None if there is none.

        Raises: ValueError as `check_shape`.
        """
        for part in self.parts:
            for name, unit in getattr(part.kind, "SPATIAL", {}).items():
                shape = np.shape(given[name][0])[:2] if name in given else ()
                if len(shape) == 2:
                    factor = self.first_stage.factor if unit == "latent" else 1
                    factor *= getattr(part.conditioner, "enlarge", 1)
                    return self.check_shape(
                        (shape[0] * factor, shape[1] * factor), f"the size that {name} ask for"
                    )
        return None

    def check_shape(self, image_shape: Sequence[int], what: str = "image_shape") -> tuple[int, int]:
        """image_shape as (H, W). Raises: ValueError that says the nearest size that works if it is not of multiples of
        `size_multiple`."""
        try:
            shape = np.asarray(image_shape)
        except ValueError:  # lists of several lengths
            shape = np.empty(0)
        multiple = self.size_multiple
        if shape.shape != (2,) or not np.issubdtype(shape.dtype, np.integer):
            raise ValueError(f"{what}: got {shown(image_shape)}, expected (height, width) in pixels")
        height, width = (int(side) for side in shape)
        near = [max(multiple, multiple * int(side / multiple + 0.5)) for side in (height, width)]
        if near != [height, width]:
            raise ValueError(
                f"{what}: got {height} x {width} (height x width), expected multiples of {multiple}, at least "
                f"{multiple} x {multiple}: "
                f"the nearest is {near[0]} x {near[1]}"
            )
        return height, width

    @property
    def takes(self) -> tuple[str, ...]:
        """What a user gives, one of each per picture; parts may share a name."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.kind.TAKES))

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of `takes` that no part insists on."""
        needed = {
            n for part in self.parts for n in part.kind.TAKES if n not in getattr(part.kind, "OPTIONAL", ())
        }
        return tuple(name for name in self.takes if name not in needed)

    @property
    def example(self) -> dict[str, str]:
        """The field of a training example that each of `takes` is filled from."""
        return {name: field for part in self.parts for name, field in part.kind.EXAMPLE.items()}

    @property
    def drops(self) -> tuple[str, ...]:
        """The keys of the inputs that guidance replaces; none where a part has nothing that means nothing."""
        parts = [part for part in self.parts if getattr(part.conditioner, "has_null", True)]
        return tuple(key for part in parts for key in part.kind.DROPS)

    @property
    def is_guided(self) -> bool:
        """Whether guidance leads away from what has no condition; else its scale is told to the network, or nothing."""
        return bool(self.drops) and self.unet.guidance_dim is None

    @property
    def encodes(self) -> tuple[str, ...]:
        """The keys of the inputs that are images until `encode_inputs`."""
        return tuple(key for part in self.parts for key in part.kind.ENCODES)

    def setting(self, part: Part, image_shape: tuple[int, int] | None = None) -> Setting:
        shape = self.image_shape if image_shape is None else image_shape
        return Setting(part.conditioner, self.tokenizer, self.latent_shape_of(shape), shape, self.in_parts)

    def check_tokenizer(self) -> None:
        """Raises: ValueError for a text model whose tokenizer is not named."""
        for part in self.parts:
            if hasattr(part.kind, "TOKENIZERS") and self.tokenizer is None:
                raise ValueError(
                    f"conditioning {part.name!r} needs a tokenizer, and config.conditioning.tokenizer names no file"
                )

    def check_names(self, given: Iterable[str]) -> None:
        """Raises: ValueError for a name that the model does not take, or one that is missing."""
        shown = [name for name in self.takes if name != "seeds"]
        wanted = ", ".join(shown) or "no conditions"
        for name in given:
            if name not in self.takes:
                raise ValueError(f"this model takes {wanted}, got {name}")
        for name in self.takes:
            if name not in given and name not in self.optional:
                got = ", ".join(n for n in shown if n in given) or "none"
                raise ValueError(f"this model takes {wanted}, got {got}")

    def inputs(
        self, given: Mapping[str, Sequence], image_shape: tuple[int, int] | None = None
    ) -> dict[str, np.ndarray]:
        """given: values by the names of `takes`, one per picture. Returns what `condition` takes, {} if unconditional.

        image_shape: (H, W) in pixels of the pictures asked for; None is what the model was trained at.
        Raises: ValueError as `check_names`, or for a value that is wrong.
        """
        self.check_names(given)
        return self._gather(lambda part: part.kind.inputs(given, self.setting(part, image_shape)))

    def null_inputs(
        self,
        batch_size: int,
        negative: Mapping[str, Sequence] | None = None,
        image_shape: tuple[int, int] | None = None,
    ) -> dict[str, np.ndarray]:
        """The inputs that say nothing: the empty caption, the null class, zeros. image_shape: as of `inputs`.

        negative: as `given` of `inputs`, for the parts that take prompts: what guidance leads away from in place of
        nothing.
        """

        def of(part: Part):
            if negative is not None and "prompts" in part.kind.TAKES:
                other = {name: [v] * batch_size for name, v in getattr(part.kind, "NEGATIVE", {}).items()}
                return part.kind.inputs({**negative, **other}, self.setting(part, image_shape))
            return part.kind.null_inputs(batch_size, self.setting(part, image_shape))

        return self._gather(of)

    def _gather(self, of: Callable[[Part], dict]) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for part in self.parts:
            new = of(part)
            assert not out.keys() & new.keys(), f"{part.name} shares inputs with another kind: {sorted(new)}"
            out |= new
        return out

    def at_steps(self, inputs: Mapping[str, np.ndarray], visited: np.ndarray) -> dict[str, np.ndarray]:
        """inputs for a run that visits the timesteps [S], descending: of kinds that count in a part of it."""
        found = dict(inputs)
        for part in self.parts:
            if hasattr(part.kind, "at_steps") and len(visited):
                found = part.kind.at_steps(found, visited, self.schedule.num_timesteps)
        return found

    @property
    def weighs(self) -> dict[str, str]:
        """{the inputs that weigh tokens: the tokens that they weigh}."""
        return {
            key: tokens for part in self.parts for key, tokens in getattr(part.kind, "WEIGHTS", {}).items()
        }

    def weights(self, given: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
        """What `weighs` names, for the prompts that `inputs` was given."""
        return self._gather(
            lambda part: part.kind.weights(given, self.setting(part)) if hasattr(part.kind, "WEIGHTS") else {}
        )

    def unconditional(self, inputs: Mapping[str, Array], null: Mapping[str, Array]) -> dict[str, Array]:
        """inputs with those that guidance drops, and their weights, taken from null, at the inputs' lengths; spatial
        conditions stay."""
        weights = [key for key in self.weighs if key in inputs and key in null]
        dropped = {key: jnp.broadcast_to(null[key], inputs[key].shape) for key in (*self.drops, *weights)}
        return {**inputs, **dropped}

    def encode_inputs(
        self, first_stage_params: PyTree, scale: LatentScale | Array | float, inputs: Mapping[str, Array]
    ) -> dict[str, Array]:
        """inputs with the images among them, [B,H,W,3], replaced by their scaled latents [B,h,w,c], the posterior's
        mode. scale: of the latents; a number is a factor alone."""
        scale = latent_scale.of(scale)
        return {
            key: scale.scale(self.first_stage.mode(first_stage_params, value))
            if key in self.encodes
            else value
            for key, value in inputs.items()
        }

    def condition(
        self,
        params: PyTree,
        inputs: Mapping[str, Array],
        deterministic: bool = True,
        key: Array | None = None,
    ) -> Cond:
        """inputs: as of `encode_inputs`, leading axis B. Returns what the network is conditioned on.

        params: {'conditioner': {kind: tree}}, where a kind without parameters may be missing. key: for dropout.
        """
        conds, inputs = [], self._encode_phrases(params, inputs)
        for i, part in sorted(enumerate(self.parts), key=lambda pair: not _prepares(pair[1])):
            variables = {"params": params.get("conditioner", {}).get(part.name, {})}
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i) if i else key}
            made = part.conditioner.apply(variables, inputs, deterministic=deterministic, rngs=rngs)
            if _prepares(part):
                inputs = {**inputs, **made}
            else:
                conds.append(made)
        return merge(conds)

    def _encode_phrases(self, params: PyTree, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """inputs whose PHRASES, tokens [B, N, L], became what the text encoder says of each at its end marker, [B, N,
        D]. Raises: ValueError for a model whose text is not read from 'tokens' alone.
        """
        found = dict(inputs)
        for key in (key for part in self.parts for key in getattr(part.kind, "PHRASES", ())):
            reader = next((part for part in self.parts if part.name in ("text", "clip")), None)
            if reader is None:
                raise ValueError(f"{key}: expected a model whose text is of the kind text or clip")
            flat = inputs[key].reshape(-1, inputs[key].shape[-1])
            end = reader.kind.null_inputs(1, self.setting(reader))["tokens"][0, 1]  # of no words: begin, end
            variables = {"params": params.get("conditioner", {}).get(reader.name, {})}
            said = reader.conditioner.apply(variables, {"tokens": flat}, deterministic=True).context
            last = jnp.argmax(flat == end, axis=1)
            found[key] = said[jnp.arange(len(flat)), last].reshape(*inputs[key].shape[:2], -1)
        return found

    def init(self, key: Array) -> PyTree:
        """Fresh parameters of the network and its conditioners: {'unet': …, 'conditioner': {kind: tree}}, the first
        alone if there is no conditioner."""
        unet_key, conditioner_key = jax.random.split(key)
        latent = jnp.zeros((1, *self.latent_shape), jnp.float32)
        inputs = {k: latent if k in self.encodes else v for k, v in self.null_inputs(1).items()}
        trees = {}
        for i, part in enumerate(self.parts):
            part_key = jax.random.fold_in(conditioner_key, i) if i else conditioner_key
            trees[part.name] = jax.jit(part.conditioner.init)(part_key, inputs).get("params", {})
        params = {}
        if self.parts:
            params["conditioner"] = trees
        cond = self.condition(params, inputs)
        args = latent, jnp.zeros(1, jnp.int32), cond
        params["unet"] = jax.jit(self.unet.init)(unet_key, *args)["params"]
        for part in self.parts:  # what a kind has beside the network
            if hasattr(part.kind, "network_params"):
                own = part.kind.network_params(part.conditioner, self.unet, conditioner_key, *args)
                params["unet"] = dict(params["unet"]) | own
        return params

    def in_compute_dtype(self, params: PyTree) -> PyTree:
        """params as the network and the first stage, where they are among them, compute with them (layers.cast): the
        same results to rounding, in bfloat16 with half the memory, and less of it to read at every step. The
        conditioner, which computes in float32, is left alone."""
        networks = {
            k: layers.cast(params[k], self.unet.dtype) for k in ("unet", "first_stage") if k in params
        }
        return dict(params, **networks)

    def param_shapes(self) -> PyTree:
        """jax.ShapeDtypeStructs of {'unet', 'conditioner', 'first_stage'}; nothing is computed."""
        key = jax.random.key(0)
        return jax.eval_shape(self.init, key) | {"first_stage": jax.eval_shape(self.first_stage.init, key)}


def _prepares(part: Part) -> bool:
    """Whether its Conditioner gives the other kinds inputs, and no Cond."""
    return getattr(part.kind, "PREPARES", False)


def make_tokenizer(section: Mapping[str, Any] | None, known: Mapping[str, Callable]) -> Any:
    """section: a config's, whose `name` is one of `known` (a text kind's TOKENIZERS). Returns None where none, or no
    file
    of it, is named yet: an option that is '' or None.

    Raises: ValueError for another name or option, or a file that is not there.
    """
    if not section:
        return None
    make, options = pick(section, "tokenizer", known)
    if any(value in ("", None) for value in options.values()):
        return None
    return call(make, options, f"tokenizer {section['name']!r}")


def make_parts(section: Mapping[str, Any] | None, tokenizer: Any = None) -> tuple[tuple[Part, ...], Any]:
    """(parts, tokenizer) of a config's conditioning: {name: kind, **options}, or {kind: {options}, …} for several.

    Raises: ValueError for an unknown kind or option.
    """
    parts = []
    for name, options in conditioning_kinds(section).items():
        kind = find("conditioning", name)
        tokenizer_section = options.pop("tokenizer", None)
        if hasattr(kind, "TOKENIZERS") and tokenizer is None:
            tokenizer = make_tokenizer(tokenizer_section, kind.TOKENIZERS)
        if "vocab_size" in options_of(kind.Conditioner) and tokenizer is not None:
            options.setdefault("vocab_size", tokenizer.get_vocab_size())
        parts.append(Part(name, kind, call(kind.Conditioner, options, f"conditioning {name!r}")))
    return tuple(parts), tokenizer


def make_system(config: Mapping[str, Any], tokenizer: Any = None) -> System:
    """Builds every part that a second-stage config names.

    tokenizer: that of a bundle; None makes the one that the config describes.
    Raises: ValueError for an unknown name or option, or an image size that the first stage's factor does not divide.
    """
    dtype = config.get("dtype", "float32")
    first_stage = make_first_stage(config["first_stage"], dtype)
    autoencoder.check_size(config["image_size"], config["image_size"], first_stage.factor)
    parts, tokenizer = make_parts(config.get("conditioning"), tokenizer)
    unet = call(UNet, dict(config["model"]), "model", dtype=jnp.dtype(dtype))
    learned_variance = bool(config.get("learned_variance"))
    if learned_variance and unet.out_channels != 2 * first_stage.channels:
        raise ValueError(
            f"learned_variance: model.out_channels is {unet.out_channels}, expected {2 * first_stage.channels}, twice "
            "the latents' channels"
        )
    return System(
        first_stage,
        unet,
        parts,
        call(make_schedule, dict(config["schedule"]), "schedule"),
        config.get("prediction_type", "eps"),
        tokenizer,
        config["image_size"],
        learned_variance,
    )
