"""The program that draws latents: conditions, guidance, sampler, a picture to start from and edits, as one function to compile.

Decides what of a call is compiled in (Recipe) and what is an argument (Arguments). It loops over no batches and checks nothing that a
user gives (inference/pipeline.py does).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import io_callback

from ldm_jax.control import maps, rows
from ldm_jax.diffusion import learned_variance, process
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.editing import blended
from ldm_jax.find import find
from ldm_jax.inference import methods, tiles
from ldm_jax.inference.methods import Method
from ldm_jax.inference.sampler_options import sampler_options, split_sampler_options, visited_timesteps
from ldm_jax.inference.sizes import Tiling
from ldm_jax.inversion import base as inversion
from ldm_jax.models import latent_scale
from ldm_jax.models.controlnet import apply_network
from ldm_jax.models.latent_scale import LatentScale
from ldm_jax.models.unet import UNet
from ldm_jax.samplers import base
from ldm_jax.system import System
from ldm_jax.types import Array, PyTree

# What of a config its programs are made from; tokenizers are no part of them.
MODEL = (
    "image_size", "dtype", "first_stage", "model", "conditioning", "schedule", "prediction_type", "scale_factor",
    "latents_mean", "latents_std", "learned_variance",
)  # fmt: skip
CLASSIFIER_FREE = Method("guidance", "classifier_free")
EMBEDDED = (
    "prompt_embeddings"  # among the inputs: the context itself [B, L, D], in the place of the conditioner's
)
PREVIEW = "guidance/x_start"  # among the taps: the clean latents that the step's first prediction means


class Recipe(NamedTuple):
    """The static choices of a compiled program, besides the shapes of its arguments.

    sampler: its name. latent_shape: (h, w, c). sampler_options: the sampler's options that are not numbers, sorted, such as
    final_alpha. methods: guidance and editing methods, in the order in which they act. from_image: start from the noised
    latents of a picture. from_latents: start from x_T itself. keeps: keep known latent cells. tiling: the tiles to denoise
    one by one, or None. previews: call the preview at every step. inverted: what of an inversion is among the known.
    records: give, beside the latents, what the edits show and the cross-attention maps. part: run the steps from start to
    stop alone.
    """

    sampler: str
    latent_shape: tuple[int, int, int]
    sampler_options: tuple[tuple[str, Any], ...] = ()
    methods: tuple[Method, ...] = ()
    from_image: bool = False
    from_latents: bool = False
    keeps: bool = False
    tiling: Tiling | None = None
    previews: bool = False
    inverted: tuple[str, ...] = ()
    records: bool = False
    part: bool = False

    @property
    def gives_one(self) -> bool:
        """Whether the program gives one array."""
        return not self.records

    @property
    def is_guided(self) -> bool:
        """Whether it also runs the network without condition."""
        return methods.needs(self.methods, "uncond")


class Arguments(NamedTuple):
    """Arguments of a program, for B pictures of n branches; n is 1 unless an editing method has source branches.

    params: {'first_stage', 'unet', 'conditioner'}. inputs: System.inputs of each branch, [B, ...]; with a tiling their images
    are already latents. null: System.null_inputs, [B, ...]; {} without guidance. seeds: [B] uint32. visited: [S] timesteps.
    start: [] int32 in [0, S), number of leading timesteps to skip; used only if recipe.from_image, inverted or part. sampler: its numeric options, [] float32 each. known: 'x_start' [B, h, w, c] scaled latents, if from_image or keeps; 'keep' [B, h, w, 1]
    float32, if keeps; 'x_T' [B, h, w, c], if from_latents; 'places' [B] int32, if previews; those of recipe.inverted as inversion/base.py says, with the pictures
    before the steps: 'trajectory', 'noises', 'uncond'. shared, each: arrays of recipe.methods, in order; those of `each`
    have one entry per picture. stop: [] int32, the number of leading timesteps at which the run ends, if recipe.part.
    """

    params: PyTree
    inputs: tuple[dict[str, Array], ...]
    null: dict[str, Array]
    seeds: Array
    visited: Array
    start: Array
    sampler: dict[str, Array]
    known: dict[str, Array]
    shared: tuple[dict[str, Array], ...] = ()
    each: tuple[dict[str, Array], ...] = ()
    stop: Array | tuple[()] = ()


# Whether a field has one entry per picture and is split among devices.
PER_PICTURE = Arguments(
    params=False, inputs=True, null=True, seeds=True, visited=False, start=False, stop=False, sampler=False, known=True, shared=False, each=True
)  # fmt: skip


def make_program(
    system: System,
    scale: LatentScale | float,
    recipe: Recipe,
    preview: Callable | None = None,
    apply: Callable = apply_network,
) -> Callable:
    """Arguments -> scaled latents [B, h, w, c] float32; [B, n, h, w, c] if there are several branches. With recipe.records:
    (these, {what: [B, ...]}), what the edits show, and 'maps' [B, n, h, w, L] float32, the cross-attention of each branch,
    the mean over steps and heads.

    scale: of the latents; a number is a factor alone.
    preview: (seeds [B] uint32, index [], t [], x_start [B, h, w, c] of the last branch, places [B] int32) -> None, called
    on the host at every step if recipe.previews.
    apply: calls the network, like models.controlnet.apply_network.
    """
    make_sampler = find("samplers", recipe.sampler).sampler
    unet = for_methods(system, recipe.methods)
    model_of = models(system, recipe, apply)

    def run(arguments: Arguments) -> Array:
        a, n = arguments, len(arguments.inputs)

        # Conditions, of all branches, and guidance.
        denoiser, further = make_denoiser(system, scale, recipe, a, model_of, unet)
        cond = denoiser.cond
        values = [shared | each for shared, each in zip(a.shared, a.each, strict=True)]
        values = methods.conditioned(recipe.methods, values, further)
        denoiser = methods.reconditioned(denoiser, recipe.methods, values)
        eps_fn = methods.guided(denoiser, recipe.methods, values)

        # Where it starts.
        keys = base.keys_of(jnp.concatenate([a.seeds] * n) if n > 1 else a.seeds)
        shape = (keys.shape[0], *recipe.latent_shape)
        found = {k: a.known[k] for k in recipe.inverted}
        known = repeated({k: v for k, v in a.known.items() if k not in found}, n)
        x = known["x_T"] if recipe.from_latents else base.step_noise(keys, shape, "x_T")
        if recipe.from_image:
            x = process.q_sample(system.schedule, known["x_start"], a.visited[a.start], x)

        # Edits, and the scan.
        more = []
        if recipe.keeps:
            more.append(blended.edit(denoiser, x_start=known["x_start"], mask=known["keep"], paste=True))
        if recipe.previews:
            eps_fn = with_preview(eps_fn, denoiser)
            more.append(previewing(preview, a.seeds, a.known["places"], n))
        if recipe.records and cond.context is not None:
            more.append(recording(rows.length_of(cond), n))
        first = [inversion.following(denoiser, found["trajectory"])] if "trajectory" in found else []
        edit = methods.edits(denoiser, recipe.methods, values, more, first)
        noises = {"noise_fn": inversion.prescribed(denoiser, found["noises"])} if "noises" in found else {}
        sampler = make_sampler(system.schedule, **dict(recipe.sampler_options), **a.sampler, **noises)
        sampler = methods.around(sampler, denoiser, recipe.methods, values)
        start = a.start if recipe.from_image or recipe.inverted or recipe.part else 0
        stop = a.stop if recipe.part else None
        out, _, edited = base.sample(eps_fn, sampler, x, a.visited, keys, edit, start, stop)
        out = rows.split_branches(out, n).swapaxes(0, 1) if n > 1 else out
        return (out, edit.shows(edited)) if recipe.records else out

    return run


def models(system: System, recipe: Recipe, apply: Callable) -> Callable:
    """(a network, its parameters) -> its model_fn: of the system's own, or of a weaker version of it."""

    # Some samplers call the network in two places: it is traced and lowered once for both.
    @partial(jax.jit, static_argnums=0)
    def network(unet, params, x, t, cond, control):
        return apply(unet, params, x, t, cond, control)

    def model_of(unet: UNet, params: PyTree) -> Callable:
        def model_fn(x, t, cond, control=None):
            if control is None:
                return network(unet, params, x, t, cond, None)
            return control.network(lambda control: network(unet, params, x, t, cond, control))

        if recipe.tiling is not None:
            model_fn = tiles.tile_model_fn(model_fn, **recipe.tiling._asdict())
        return learned_variance.apart(model_fn) if system.learned_variance else model_fn

    return model_of


def make_denoiser(
    system: System, scale: LatentScale | float, recipe: Recipe, a: Arguments, model_of: Callable, unet: UNet
) -> tuple[Denoiser, Callable]:
    """(the denoiser of all branches, `further` of `conditions`). model_of: of `models`."""
    n = len(a.inputs)
    condition, further = conditions(system, scale, a, encodes=recipe.tiling is None)
    about = system.schedule, system.prediction_type, a.visited, n, None
    ends = coders(system, scale, a.params["first_stage"])

    def under(other: UNet, params: PyTree) -> Denoiser:
        return Denoiser(model_of(other, params["unet"]), condition(params), None, *about, *ends)

    cond, uncond = condition(a.params), further(a.null) if recipe.is_guided else None
    denoiser = Denoiser(model_of(unet, a.params["unet"]), cond, uncond, *about, *ends, under)
    if recipe.is_guided and "uncond" in recipe.inverted:
        steps = {k: jnp.concatenate([v.swapaxes(0, 1)] * n, axis=1) for k, v in a.known["uncond"].items()}
        denoiser = denoiser._replace(uncond_steps=steps)
    return denoiser, further


def for_methods(system: System, used: Sequence[Method]) -> UNet:
    """The network, of which, with gradients, what a block computes is not kept for them: it is the same, and costs a
    second forward pass."""
    return system.unet.clone(remat="loop") if methods.differentiates(used) else system.unet


def conditions(
    system: System, scale: LatentScale | float, a: Arguments, encodes: bool = True
) -> tuple[Callable, Callable]:
    """(condition, further) of the rows of all branches. condition: params, of the conditioner -> the Cond of the inputs.
    further: what of the inputs is another, [B, ...] -> the Cond that it makes. encodes: images among the inputs are not
    latents yet."""
    n = len(a.inputs)
    inputs = {k: jnp.concatenate([one[k] for one in a.inputs]) for k in a.inputs[0]} if n > 1 else a.inputs[0]
    if encodes:
        inputs = system.encode_inputs(a.params["first_stage"], scale, inputs)
    embedded = inputs.get(EMBEDDED)
    inputs = {k: v for k, v in inputs.items() if k != EMBEDDED}

    def condition(params):
        cond = system.condition(params, inputs)
        return cond if embedded is None else cond.replace(context=embedded)

    def further(other):
        return system.condition(a.params, system.unconditional(inputs, repeated(other, n)))

    return condition, further


def repeated(values: PyTree, branches: int) -> PyTree:
    """values, whose leaves have an entry per picture, [B, ...], with one for each row of all branches."""
    return jax.tree.map(lambda v: jnp.concatenate([v] * branches), values) if branches > 1 else values


def with_preview(eps_fn: Callable, denoiser: Denoiser) -> Callable:
    """eps_fn, which leaves the clean latents that its eps means among the taps, as PREVIEW."""

    def previewed(x, t, control=None):
        eps, taps = eps_fn(x, t, control)
        return eps, taps | {PREVIEW: denoiser.x_start(x, t, eps)}

    return previewed


def previewing(preview: Callable, seeds: Array, places: Array, branches: int) -> base.Edit:
    """An Edit that changes nothing and hands every step's clean latents, of the last branch, to `preview` on the host."""

    def after(edited, x, taps, info):
        x_start = rows.split_branches(taps[PREVIEW], branches)[-1]
        io_callback(preview, None, seeds, info.index, info.t, x_start, places, info.num_steps)
        return edited, x

    return base.Edit(after=after)


def recording(length: int, branches: int) -> base.Edit:
    """An Edit that changes nothing and shows 'maps' [B, n, h, w, length]: see `make_program`."""

    def init(x_T):
        return jnp.zeros((*x_T.shape[:3], length), jnp.float32)

    def control(edited, info):
        return maps.CrossMaps(maps.most_rows(edited.shape[1]))

    def after(edited, x, taps, info):
        found = maps.finest(taps, x.shape)[-x.shape[0] :]
        return edited + maps.resize(found, x.shape) / info.num_steps, x

    def shows(edited):
        return {"maps": rows.split_branches(edited, branches).swapaxes(0, 1)}

    return base.Edit(init=init, control=control, after=after, shows=shows)


def arguments(
    system: System,
    params: PyTree,
    settings: Mapping[str, Any],
    batch_size: int,
    image_shape: tuple[int, int] | None = None,
) -> tuple[Recipe, Arguments]:
    """(the recipe of drawing batch_size pictures from noise, Arguments of jax.ShapeDtypeStructs for it).

    params: arrays or their shapes, which are placed as pipeline.load does it. settings: of settings.resolve_settings. image_shape: (H, W) in
    pixels, that of training by default.
    """
    params = jax.eval_shape(system.in_compute_dtype, params)
    image_shape = system.image_shape if image_shape is None else image_shape
    guided = system.is_guided and float(settings["guidance_scale"]) != 1.0
    static, numbers = split_sampler_options(settings["sampler"], sampler_options(settings))
    used = (CLASSIFIER_FREE,) if guided else ()
    recipe = Recipe(settings["sampler"], system.latent_shape_of(image_shape), static, used)
    visited = visited_timesteps(settings, system.schedule)
    inputs = {k: jnp.asarray(v) for k, v in system.null_inputs(1, None, image_shape).items()}
    inputs |= {k: jnp.ones(inputs[tokens].shape) for k, tokens in system.weighs.items()}
    inputs = {k: jax.ShapeDtypeStruct((batch_size, *v.shape[1:]), v.dtype) for k, v in inputs.items()}
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    args = Arguments(
        params=params,
        inputs=(inputs,),
        null={k: inputs[k] for k in (*system.drops, *system.weighs)} if guided else {},
        seeds=jax.ShapeDtypeStruct((batch_size,), jnp.uint32),
        visited=jnp.asarray(visited),
        start=jax.ShapeDtypeStruct((), jnp.int32),
        sampler=dict.fromkeys(numbers, scalar),
        known={},
        shared=({"scale": scalar},) * len(used),
        each=({},) * len(used),
    )
    return recipe, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), args)


def make_decoder(system: System, scale: LatentScale | float) -> Callable:
    """(the first stage's params, scaled latents [B, h, w, c]) -> images [B, H, W, C] float32, about [-1, 1]."""
    scale = latent_scale.of(scale)
    return lambda params, latents: system.first_stage.decode(params, scale.unscale(latents))


def make_encoder(system: System, scale: LatentScale | float) -> Callable:
    """(the first stage's params, images [B, H, W, C] in [-1, 1]) -> scaled latents [B, h, w, c] float32, the posterior's mode."""
    scale = latent_scale.of(scale)
    return lambda params, images: scale.scale(system.first_stage.mode(params, images))


def coders(system: System, scale: LatentScale | float, params: PyTree) -> tuple[Callable, Callable]:
    """(decode, encode) of a Denoiser. params: the first stage's."""
    return partial(make_decoder(system, scale), params), partial(make_encoder(system, scale), params)
