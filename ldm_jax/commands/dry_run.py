"""What `--dry_run` says: shapes and parameter counts; with `--topology`, the real program of a config, compiled for a
slice of Cloud TPU, and what to change if it does not fit.

It knows configs and programs; how a program's cost is read from the compiler is xla/topology.py's.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.distributed import parallel
from ldm_jax.first_stage import make_first_stage
from ldm_jax.inference import program as sampling_program
from ldm_jax.models import latent_scale
from ldm_jax.models.controlnet import apply_network
from ldm_jax.system import System, make_system
from ldm_jax.training import classifier_loss
from ldm_jax.training import program as training_program
from ldm_jax.types import PyTree
from ldm_jax.xla import flops, topology
from ldm_jax.xla.tpu_slices import GIB, Slice, find_slice


def with_first_stage(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config with the section of its first stage, read from the checkpoint that it names if it has none of its own."""
    if config["task"] != "first_stage" and not config.get("first_stage"):
        opened = open_checkpoint(config["first_stage_from"])
        return dict(config, first_stage=opened.config["first_stage"])
    return config


def _count(tree: PyTree) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a training run, its shapes and parameter counts, without allocating a parameter."""
    config = with_first_stage(config)
    placement = parallel.make(config.get("parallelism", "pmap"), config.get("mesh"))
    params = dict(training_program.make_training_program(config, placement).state.params)
    for own in ("logvar", "batch_stats"):  # numbers of the loss, and what the discriminator counts
        params.pop(own, None)
    autoencoder = params.pop("autoencoder", None)
    first_stage, size = make_first_stage(config["first_stage"]), config["image_size"]
    if autoencoder is None:
        autoencoder = jax.eval_shape(first_stage.init, jax.random.key(0))
    side, number = size // first_stage.factor, config["batch_size"]
    shapes = {"image": [number, size, size, 3], "latents": [number, side, side, first_stage.channels]}
    parameters = {"first_stage": _count(autoencoder)} | {name: _count(tree) for name, tree in params.items()}
    return dict(config=config, shapes=shapes, parameters=parameters, devices=[str(d) for d in jax.devices()])


def sampled(config: Mapping[str, Any], batch_size: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, the shapes and the parameter counts of a model that is to be sampled, without allocating a
    parameter."""
    system = make_system(with_first_stage(config))
    parameters = {name: _count(tree) for name, tree in system.param_shapes().items()}
    shapes = {"image": [batch_size, *system.image_shape, 3], "latents": [batch_size, *system.latent_shape]}
    return dict(
        settings=dict(settings), takes=list(system.takes), shapes=shapes, parameters=parameters,
        devices=[str(d) for d in jax.devices()]
    )  # fmt: skip


def training(config: Mapping[str, Any], topology_name: str) -> dict[str, Any]:
    """topology.report of one training step of `config` on the slice of that name.

    Raises: ValueError for an unknown slice, a batch that its chips do not divide, or a config that cannot be built;
    RuntimeError without libtpu.
    """
    slice_, devices = topology.open_slice(topology_name)
    parallel.check_batch_size(config["batch_size"], slice_.num_chips)
    config = with_first_stage(config)
    placement = parallel.make(config.get("parallelism", "pmap"), config.get("mesh"), devices)
    program = training_program.make_training_program(config, placement)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=placement.replicated)
    state, frozen = placement.abstract(program.state), placement.abstract(program.frozen)
    args = (state, frozen, _split(program.batch, placement.batch), seed)
    step = placement.compile(program.step, program.state, program.frozen)
    cost = topology.compile_for(slice_, step, *args)
    report = topology.report(slice_, cost, training_flops(config))
    return dict(
        parallelism=dict(way=placement.way, mesh=dict(placement.mesh.shape)),
        batch_size=config["batch_size"],
        state_bytes=topology.argument_bytes(state),
        **report,
    )


def _split(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


# --------------------------------------------------------------------------------------------------------- model FLOPs


def training_flops(config: Mapping[str, Any]) -> int:
    """FLOPs that a step needs over its whole batch, nothing recomputed.

    Second stage: three times those of a forward pass for what is trained, one for the backward pass to the activations
    and one to the weights; once for what is frozen. First stage: those of the step as it is written, whose two losses
    share passes.
    """
    if config["task"] == "first_stage":
        placement = parallel.make("pmap", devices=jax.devices()[:1])  # traced for it, not run on it
        program = training_program.first_stage_program(_without_remat(config, "first_stage"), placement)
        step = placement.compile(program.step, program.state, program.frozen)
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        return flops.count(step, program.state, program.frozen, program.batch, seed)
    system = make_system(with_first_stage(config))
    if config["task"] == "classifier":
        return _classifier_flops(config, system)
    parts = forward_flops(system, config["batch_size"])
    frozen = set(config.get("freeze") or ())
    total = 3 * parts["unet"]
    for part in system.parts:
        trained = not frozen & {"conditioner", f"conditioner/{part.name}"}
        total += parts[part.name] * (3 if trained else 1)
    stored = config["data"].get("precompute_latents", False)
    return total + (0 if stored else parts["encode"])


def _classifier_flops(config: Mapping[str, Any], system: System) -> int:
    """Three times those of a forward pass, and those of encoding the images unless latents are stored."""
    network, number = classifier_loss.make_network(config), config["batch_size"]
    params = jax.eval_shape(lambda: classifier_loss.init(config, system, jax.random.key(0)))
    x, t = (
        jax.ShapeDtypeStruct((number, *system.latent_shape), jnp.float32),
        jax.ShapeDtypeStruct((number,), jnp.int32),
    )
    total = 3 * flops.count(lambda p, x, t: network.apply({"params": p}, x, t), params["classifier"], x, t)
    if config["data"].get("precompute_latents"):
        return total
    first_stage = system.first_stage
    images = jax.ShapeDtypeStruct((number, *system.image_shape, 3), jnp.float32)
    return total + flops.count(
        first_stage.encode, jax.eval_shape(first_stage.init, jax.random.key(0)), images
    )


def _without_remat(config: Mapping[str, Any], section: str) -> dict[str, Any]:
    return dict(config, **{section: {k: v for k, v in config[section].items() if k != "remat"}})


def forward_flops(system: System, batch_size: int) -> dict[str, int]:
    """FLOPs of one pass over a batch: 'unet', each kind of conditioning by its name, 'encode' and 'decode' of the first
    stage."""
    params, inputs, shape = system.param_shapes(), _inputs(system, batch_size), jax.ShapeDtypeStruct
    first_stage = params["first_stage"]
    latents = shape((batch_size, *system.latent_shape), jnp.float32)
    images = shape((batch_size, *system.image_shape, 3), jnp.float32)
    cond = jax.eval_shape(system.condition, params, inputs)
    found = dict(
        unet=flops.count(
            lambda *args: apply_network(system.unet, *args)[0],
            params["unet"],
            latents,
            shape((batch_size,), jnp.int32),
            cond,
        ),
        encode=flops.count(system.first_stage.encode, first_stage, images),
        decode=flops.count(system.first_stage.decode, first_stage, latents),
    )
    for part in system.parts:
        tree = params["conditioner"][part.name]
        found[part.name] = flops.count(
            lambda p, x, part=part: part.conditioner.apply({"params": p}, x), tree, inputs
        )
    return found


def _inputs(system: System, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the conditioner is given: images among the inputs as latents."""
    out = {}
    for name, value in system.null_inputs(1).items():
        one = system.latent_shape if name in system.encodes else value.shape[1:]
        dtype = np.float32 if name in system.encodes else value.dtype
        out[name] = jax.ShapeDtypeStruct((batch_size, *one), dtype)
    return out


# ------------------------------------------------------------------------------------------------------------- sampling


def sampling(
    config: Mapping[str, Any],
    topology_name: str,
    batch_size: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """{'latents', 'decode': topology.report of the two programs that draw batch_size pictures on each chip of the
    slice}.

    Every chip runs the program of one device on its share, as everywhere, so no two of them talk. settings: of
    settings.resolve_settings.
    Raises: as `training`.
    """
    slice_, devices = topology.open_slice(topology_name)
    system = make_system(with_first_stage(config))
    mesh = Mesh(np.asarray(devices), ("images",))
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("images")))
    number, shape = batch_size * slice_.num_chips, jax.ShapeDtypeStruct
    recipe, shapes = sampling_program.arguments(system, system.param_shapes(), settings, number)
    placed = jax.tree.map(lambda per_picture: split if per_picture else whole, sampling_program.PER_PICTURE)
    args = [(shapes, placed)]
    num_steps = shapes.visited.shape[0]
    per_step = 2 if recipe.is_guided else 1
    scale = latent_scale.of_config(config, system.first_stage.channels)
    flops_of = forward_flops(system, number)
    passes = per_step * (flops_of["unet"] * num_steps + sum(flops_of[part.name] for part in system.parts))
    latents = _on_all(slice_, mesh, sampling_program.make_program(system, scale, recipe), args, passes)
    z = shape((number, *system.latent_shape), jnp.float32)
    decode = _on_all(
        slice_,
        mesh,
        sampling_program.make_decoder(system, scale),
        [(shapes.params["first_stage"], whole), (z, split)],
        flops_of["decode"],
    )
    return dict(
        batch_size=number, num_steps=num_steps, guided=recipe.is_guided, latents=latents, decode=decode
    )


def _on_all(slice_: Slice, mesh: Mesh, fn: Any, args: list, model_flops: float) -> dict[str, Any]:
    """topology.report of fn on every device's share; args: (tree, its sharding or a prefix tree of them) each."""
    specs = tuple(jax.tree.map(lambda s: s.spec, sharding) for _, sharding in args)
    out = PartitionSpec(mesh.axis_names)
    program = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False))
    trees = [jax.tree.map(lambda s, part: _split(part, s), sharding, tree) for tree, sharding in args]
    cost = topology.compile_for(slice_, program, *trees)
    return topology.report(slice_, cost, model_flops)


# --------------------------------------------------------------------------------------------------- what does not fit


def check_fits(report: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> None:
    """report: of `training`, with its config, or of `sampling`.

    Raises: ValueError that says how much is missing and what to change, where a program does not fit its chip.
    """
    for name, part in (("step", report), *((k, report[k]) for k in ("latents", "decode") if k in report)):
        if not part.get("fits", True):
            hbm, generation = part["hbm"], find_slice(part["topology"]).generation
            remedies = ", ".join(_remedies(report, config)) if config else "a smaller --batch_size"
            what = {"step": "the training step", "latents": "sampling", "decode": "decoding"}[name]
            raise ValueError(
                f"{what} does not fit {part['topology']}: it needs {hbm['peak'] / GIB:.1f} GiB on each chip, "
                f"of which its arguments "
                f"are {hbm['arguments'] / GIB:.1f}, and a {generation} chip has {hbm['capacity'] / GIB:.2f}; "
                f"try {remedies}"
            )


def _remedies(report: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What could make a training step fit, the most helpful first."""
    chips, slices, found = report["chips"], find_slice(report["topology"]).count, []
    if report["parallelism"]["way"] == "pmap" and chips > 1:
        state, split = report["state_bytes"] / GIB, chips // slices
        found.append(
            f"--config.parallelism=fsdp (the state's {state:.1f} GiB shrink to about {state / split:.1f})"
        )
    if config.get("dtype", "float32") == "float32":
        found.append("--config.dtype=bfloat16")
    if config["task"] == "diffusion" and not config["model"].get("remat"):
        found.append("--config.model.remat=full")
    per_chip = config["batch_size"] // chips
    if per_chip > 1:
        found.append(
            f"a smaller batch (--config.batch_size={config['batch_size'] // 2}, {per_chip} per chip now)"
            if per_chip % 2 == 0
            else f"a smaller batch (--config.batch_size={chips}, {per_chip} per chip now)"
        )
        found.append("with --config.optimizer.accumulate to make up for it")
    return found or ["a slice with more chips, or chips with more memory"]
