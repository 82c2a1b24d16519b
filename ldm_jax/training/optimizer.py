"""Optimizers by name and the learning rate over time.

Decides: the optimizers' defaults, the learning-rate schedules, those of the original among them, and how parameters are
frozen. Knows nothing of losses or of sharding.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax.params import is_below
from ldm_jax.types import Array, PyTree

# step ([] int32, optimizer steps done so far) -> multiplier of the learning rate, [] float32
Multiplier = Callable[[Array], Array]


def learning_rate(
    base_lr: float, batch_size: int, num_devices: int = 1, accumulate: int = 1, scale_lr: bool = True
) -> float:
    """accumulate * num_devices * batch_size (per device) * base_lr; base_lr itself if not scale_lr.

    Raises: ValueError for a base_lr that is not positive or a count below 1. Source: original main.py.
    """
    if not 0 < base_lr < math.inf:
        raise ValueError(f"base_lr: got {base_lr}, expected a number above 0")
    for name, value in dict(batch_size=batch_size, num_devices=num_devices, accumulate=accumulate).items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}, expected a whole number of at least 1")
    return base_lr * batch_size * num_devices * accumulate if scale_lr else base_lr


def constant(warm_up_steps: int = 0) -> Multiplier:
    """1, after a linear warm-up from 0 over warm_up_steps."""
    return lambda step: (
        jnp.minimum(jnp.float32(step) / warm_up_steps, 1.0) if warm_up_steps else jnp.float32(1.0)
    )


def warmup_cosine(num_steps: int, warm_up_steps: int = 0, final: float = 0.0) -> Multiplier:
    """Linear from 0 to 1 over warm_up_steps, then half a cosine to `final` at num_steps, and `final` from
    there on.
    """
    return lambda_warmup_cosine(warm_up_steps, final, 1.0, 0.0, num_steps)


def warmup_stable_decay(
    warm_up_steps: int = 0, decay_from: int | None = None, decay_steps: int = 0, final: float = 0.0
) -> Multiplier:
    """Linear from 0 to 1 over warm_up_steps, then 1; from step decay_from on, down to `final` within decay_steps, by 1
    - sqrt(the part of them that is done), and `final` from there on. decay_from None: never.

    A run has no end until it is given one: it goes on at the constant rate, and whenever a model is wanted it is
    resumed with
    decay_from at the step where it stands. Source: Hu et al. 2024, MiniCPM (arXiv:2404.06395), section 4; the square
    root: Hägele et al. 2024 (arXiv:2405.18392), section 3.
    Raises: ValueError for a decay that begins within the warm-up or takes no step.
    """
    warm = constant(warm_up_steps)
    if decay_from is None:
        return warm
    if decay_from < warm_up_steps or decay_steps < 1:
        raise ValueError(
            f"warmup_stable_decay: got a decay of {decay_steps} steps from step {decay_from} on, expected at "
            f"least 1 step, "
            f"after the warm-up of {warm_up_steps}"
        )

    def multiplier(step):
        done = jnp.clip((jnp.float32(step) - decay_from) / decay_steps, 0.0, 1.0)
        return warm(step) * (1 - (1 - final) * jnp.sqrt(done))

    return multiplier


def _ramp(n: Array, steps: Array | float, start: Array | float, end: Array | float) -> Array:
    return start + (end - start) * n / jnp.maximum(steps, 1.0)


def _cosine(progress: Array, low: Array | float, high: Array | float) -> Array:
    return low + 0.5 * (high - low) * (1 + jnp.cos(math.pi * jnp.minimum(progress, 1.0)))


def lambda_warmup_cosine(
    warm_up_steps: int, lr_min: float, lr_max: float, lr_start: float, max_decay_steps: int
) -> Multiplier:
    """Linear from lr_start to lr_max over warm_up_steps, then half a cosine to lr_min at max_decay_steps,
    then lr_min.

    Source: original ldm/lr_scheduler.py LambdaWarmUpCosineScheduler.
    """
    if max_decay_steps <= warm_up_steps:
        raise ValueError(
            f"decay: got its end at step {max_decay_steps}, expected after the warm-up of {warm_up_steps}"
        )

    def multiplier(step):
        n = jnp.float32(step)
        progress = (n - warm_up_steps) / (max_decay_steps - warm_up_steps)
        warm, decayed = _ramp(n, warm_up_steps, lr_start, lr_max), _cosine(progress, lr_min, lr_max)
        return jnp.where(n < warm_up_steps, warm, decayed)

    return multiplier


def _cycles(after_warm_up: Callable, warm_up_steps, f_min, f_max, f_start, cycle_lengths) -> Multiplier:
    """Cycles that each warm up from f_start to f_max, then follow after_warm_up(n, warm_up, length, f_min,
    f_max).

    A step on the border of two cycles is the last of the first. After the last cycle its end is held (the
    original fails).
    """
    lists = dict(
        warm_up_steps=warm_up_steps, f_min=f_min, f_max=f_max, f_start=f_start, cycle_lengths=cycle_lengths
    )
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or not lengths["f_min"]:
        raise ValueError(f"cycles: got lists of lengths {lengths}, expected one entry per cycle in each")
    # float32: the usual single cycle of 1e13 steps is no int32.
    tables = {name: jnp.asarray(values, jnp.float32) for name, values in lists.items()}
    starts = jnp.asarray(np.cumsum([0.0, *cycle_lengths])[:-1], jnp.float32)

    def multiplier(step):
        step = jnp.float32(step)
        cycle = jnp.maximum(jnp.searchsorted(starts, step, side="left") - 1, 0)
        warm_up, low, high, start, length = (tables[name][cycle] for name in lists)
        n = jnp.minimum(step - starts[cycle], length)
        return jnp.where(
            n < warm_up, _ramp(n, warm_up, start, high), after_warm_up(n, warm_up, length, low, high)
        )

    return multiplier


def lambda_linear(
    warm_up_steps: Sequence[float],
    f_min: Sequence[float],
    f_max: Sequence[float],
    f_start: Sequence[float],
    cycle_lengths: Sequence[float],
) -> Multiplier:
    """Per cycle: linear from f_start to f_max over warm_up_steps, then f_min + (f_max - f_min) (length - n) /
    length.

    n counts from the start of the cycle, the warm-up included, so the line jumps down a little where the
    warm-up ends.
    Raises: ValueError if the lists differ in length. Source: original ldm/lr_scheduler.py
    LambdaLinearScheduler.
    """

    def line(n, warm_up, length, low, high):
        return low + (high - low) * (length - n) / length

    return _cycles(line, warm_up_steps, f_min, f_max, f_start, cycle_lengths)


def lambda_warmup_cosine2(
    warm_up_steps: Sequence[float],
    f_min: Sequence[float],
    f_max: Sequence[float],
    f_start: Sequence[float],
    cycle_lengths: Sequence[float],
) -> Multiplier:
    """Per cycle: linear from f_start to f_max over warm_up_steps, then half a cosine to f_min at its end.

    Raises: ValueError if the lists differ in length. Source: original ldm/lr_scheduler.py
    LambdaWarmUpCosineScheduler2.
    """

    def cosine(n, warm_up, length, low, high):
        return _cosine((n - warm_up) / jnp.maximum(length - warm_up, 1.0), low, high)

    return _cycles(cosine, warm_up_steps, f_min, f_max, f_start, cycle_lengths)


SCHEDULES = {
    f.__name__: f
    for f in (
        constant,
        warmup_cosine,
        warmup_stable_decay,
        lambda_linear,
        lambda_warmup_cosine,
        lambda_warmup_cosine2,
    )
}
# torch's AdamW as the original builds it for the diffusion models, and its Adam for the first stages; Adafactor
# (Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5) at the learning rate that it is given, as in tuning.
OPTIMIZERS = {
    "adamw": (optax.adamw, dict(b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-2)),
    "adam": (optax.adam, dict(b1=0.5, b2=0.9, eps=1e-8)),
    "adafactor": (
        partial(optax.adafactor, multiply_by_parameter_scale=False),
        dict(decay_rate=0.8, clipping_threshold=1.0, min_dim_size_to_factor=128, eps=1e-30),
    ),
}


# The option of a schedule that says where it ends, for those that do. Left out, or None, it ends with the run.
ENDS = {"warmup_cosine": "num_steps", "lambda_warmup_cosine": "max_decay_steps"}
# What an optimizer takes beside its own options above.
AROUND = {"clip_norm": None, "accumulate": 1, "parts": None}


def with_defaults(section: Mapping) -> dict:
    """A config's `optimizer` with every option that its optimizer takes: two that mean the same are then equal."""
    _, own = OPTIMIZERS.get(section.get("name"), (None, {}))
    return AROUND | own | dict(section)


def section_options() -> dict[str, tuple[str, ...]]:
    """What the sections of a config may hold, whichever optimizer and schedule they name: {'optimizer': …,
    'optimizer.schedule': …}."""
    own = [name for _, defaults in OPTIMIZERS.values() for name in defaults]
    of_schedules = [
        name for schedule in SCHEDULES.values() for name in inspect.signature(schedule).parameters
    ]
    return {
        "optimizer": tuple(dict.fromkeys(["name", "base_lr", "scale_lr", "schedule", *AROUND, *own])),
        "optimizer.schedule": tuple(dict.fromkeys(["name", *of_schedules])),
    }


def schedule_note(schedule: Mapping | None, run_steps: int) -> str | None:
    """A sentence on a schedule that does not end with a run of run_steps optimizer steps; None of one that does or
    has no end."""
    options = dict(schedule or {})
    option, warm_up = ENDS.get(options.get("name")), options.get("warm_up_steps", 0)
    if option is None:
        return None
    end = options.get(option)
    if end is None:
        short = f"the run of {run_steps} optimizer steps ends within the warm-up of {warm_up}"
        return short if run_steps <= warm_up else None
    if end == run_steps:
        return None
    what = "is at its floor from there on" if end < run_steps else "does not reach its floor"
    return (
        f"config.optimizer.schedule.{option} is {end} and the run has {run_steps} optimizer steps: "
        f"the learning rate {what}; leave {option} out to end with the run"
    )


def make_lr_schedule(
    learning_rate: float, schedule: Mapping | None = None, run_steps: int | None = None
) -> optax.Schedule:
    """step [] int32 -> learning rate [] float32: `learning_rate` times the multiplier of a named schedule.

    schedule: {'name': ..., its options}; names: constant, warmup_cosine, warmup_stable_decay, lambda_linear,
      lambda_warmup_cosine, lambda_warmup_cosine2. None is constant.
    run_steps: the optimizer steps of the whole run, where those of ENDS end that do not say it themselves; a run that
      is no longer than their warm-up has nothing else.
    Raises: ValueError for an unknown name (listing the known ones) or options that the schedule does not
    take.
    """
    options = dict(schedule or {})
    name = options.pop("name", "constant")
    if name not in SCHEDULES:
        raise ValueError(f"learning-rate schedule {name!r} not found; known: {', '.join(SCHEDULES)}")
    taken = inspect.signature(SCHEDULES[name]).parameters
    for option in options:
        if option not in taken:
            raise ValueError(
                f"learning-rate schedule {name!r} has no option {option!r}; it has: {', '.join(taken)}"
            )
    if name in ENDS and options.get(ENDS[name]) is None:
        options.pop(ENDS[name], None)
        if run_steps is not None:
            options[ENDS[name]] = max(run_steps, options.get("warm_up_steps", 0) + 1)
    try:
        inspect.signature(SCHEDULES[name]).bind(**options)
    except TypeError as error:
        raise ValueError(f"learning-rate schedule {name!r}: {error}; got {sorted(options)}") from None
    multiplier = SCHEDULES[name](**options)
    return lambda step: learning_rate * multiplier(step)


def make_optimizer(
    name: str,
    learning_rate: float,
    schedule: Mapping | None = None,
    *,
    clip_norm: float | None = None,
    accumulate: int = 1,
    parts: Mapping[str, Any] | None = None,
    run_steps: int | None = None,
    **options,
) -> optax.GradientTransformation:
    """An optimizer by name.

    name: 'adamw' (betas 0.9 and 0.999, decoupled weight decay 1e-2 on every parameter, biases and norms too,
      as torch does; the original's for diffusion models), 'adam' (betas 0.5 and 0.9: the original's for
      first stages and discriminators, not the textbook's), or 'adafactor', which keeps of the second moments of a
      matrix the means of rows and columns, and no first ones.
    learning_rate, schedule, run_steps: as `make_lr_schedule`; the step counts optimizer steps.
    clip_norm: if given, gradients are first scaled down to this global norm. The original clips nothing.
    accumulate: average the gradients of this many calls into one optimizer step.
    parts: {prefix of parameters: what their learning rate is multiplied by}, a number, or pairs [step, number], each
      of which counts from that optimizer step on; of several prefixes the longest counts.
    options: over the defaults above: b1, b2, eps, weight_decay (adamw); decay_rate, clipping_threshold,
      min_dim_size_to_factor, the least side of a matrix that is factored, eps (adafactor).

    Raises: ValueError for an unknown name (listing the known ones), an option that the optimizer does not
      take, or a clip_norm or accumulate out of range.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} not found; known: {', '.join(OPTIMIZERS)}")
    make, defaults = OPTIMIZERS[name]
    for option, value in options.items():
        if option not in defaults:
            known = ("base_lr", "scale_lr", "schedule", *AROUND, *defaults)
            raise ValueError(f"optimizer {name!r} has no option {option!r}; it has: {', '.join(known)}")
        if not isinstance(value, int | float):
            raise ValueError(f"optimizer {name!r}: {option} is {value!r}, expected a number")
    if clip_norm is not None and not (isinstance(clip_norm, int | float) and clip_norm > 0):
        raise ValueError(f"clip_norm: got {clip_norm!r}, expected a number above 0")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"accumulate: got {accumulate!r}, expected a whole number of at least 1")
    rate, options = make_lr_schedule(learning_rate, schedule, run_steps), defaults | options
    optimizer = make(rate, **options)
    if parts:
        factors = {prefix: _piecewise(prefix, said) for prefix, said in parts.items()}
        each = {
            prefix: make(lambda step, factor=factor: rate(step) * factor(step), **options)
            for prefix, factor in factors.items()
        }
        optimizer = optax.multi_transform({"": optimizer} | each, partial(part_labels, list(parts)))
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    return optax.MultiSteps(optimizer, accumulate).gradient_transformation() if accumulate > 1 else optimizer


def _piecewise(prefix: str, said: Any) -> Multiplier:
    """What `parts` says of a prefix as a function of the step. Raises: ValueError for anything else."""
    pairs = [[0, said]] if isinstance(said, int | float) else said
    fits = (
        isinstance(pairs, list | tuple)
        and bool(pairs)
        and all(
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and isinstance(pair[0], int)
            and isinstance(pair[1], int | float)
            and 0 <= pair[1] < math.inf
            for pair in pairs
        )
    )
    starts = [pair[0] for pair in pairs] if fits else [-1]
    if starts[0] != 0 or sorted(set(starts)) != starts:
        raise ValueError(
            f"optimizer.parts: {prefix!r} is {said!r}, expected a number of at least 0, or pairs [step, number] whose "
            "steps begin at 0 and grow"
        )
    begins, values = jnp.asarray(starts), jnp.asarray([pair[1] for pair in pairs], jnp.float32)
    return lambda step: values[jnp.searchsorted(begins, step, side="right") - 1]


def part_labels(prefixes: Sequence[str], params: PyTree) -> PyTree:
    """For each leaf of params the longest of `prefixes` that it is below, '' for none."""
    longest = sorted(prefixes, key=len, reverse=True)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: next((prefix for prefix in longest if is_below(path, [prefix])), ""), params
    )


def stop_gradients(params: PyTree, prefixes: Sequence[str]) -> PyTree:
    """params, whose leaves below `prefixes` get no gradient: what leads to them alone is not computed backwards."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.lax.stop_gradient(leaf) if is_below(path, prefixes) else leaf, params
    )


def check_prefixes(option: str, prefixes: Sequence[str], params: PyTree) -> None:
    """Raises: ValueError for a prefix that no parameter has, of a config's `option`."""
    for prefix in prefixes:
        if not any(is_below(path, [prefix]) for path, _ in jax.tree_util.tree_leaves_with_path(params)):
            raise ValueError(f"config.{option}: {prefix!r} has no parameters; there are: {', '.join(params)}")


def freeze(
    tx: optax.GradientTransformation, prefixes: Sequence[str], params: PyTree
) -> optax.GradientTransformation:
    """tx for all parameters but those below `prefixes`, such as 'conditioner' or 'conditioner/clip', which stay as
    they are: they get no update, no weight decay and no optimizer state.

    Raises: ValueError for a prefix that no parameter has.
    """
    check_prefixes("freeze", prefixes, params)

    def labels(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "frozen" if is_below(path, prefixes) else "trained", params
        )

    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels) if prefixes else tx
