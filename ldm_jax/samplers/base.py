"""The seam between samplers, networks and editing methods: one lax.scan over the timesteps.

Decides: what a sampler is handed at each step, in which order it and an edit act, and where noise comes from.
Knows nothing of any particular update rule, of guidance, or of what a network is.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ldm_jax.control.base import chain, own
from ldm_jax.types import KEY_IMPL, Array, EpsFn, PyTree


class StepInfo(NamedTuple):
    """Where a sampling run is.

    index: [] int32, 0 for the first (noisiest) step that is run. t: [] int32, the timestep of x, or float32 where the run
    visits levels between timesteps (spacing 'linspace'). t_prev: [], as t, the timestep that the step leads to;
    -1 at the last step, past the end, where each sampler defines the final level. key: [] or [B] typed key, made
    from the run's key and the index: see `step_noise`. num_steps: [] int32, how many steps are run; index is less.
    """

    index: Array
    t: Array
    t_prev: Array
    key: Array
    num_steps: Array | int = 1


class Sampler(NamedTuple):
    """An update rule. What it remembers between steps lives in `state`, a pytree of fixed structure.

    init: x_T [B, ...] -> state.
    step: (eps_fn, state, x [B, ...], info) -> (state, x [B, ...], taps of the first call of eps_fn).
    """

    init: Callable[[Array], PyTree]
    step: Callable[[EpsFn, PyTree, Array, StepInfo], tuple[PyTree, Array, dict]]


def _no_state(x_T: Array) -> tuple:
    return ()


def _no_control(edited: PyTree, info: StepInfo) -> None:
    return None


def _leave_before(edited: PyTree, x: Array, info: StepInfo, eps_fn: EpsFn) -> tuple[PyTree, Array]:
    return edited, x


def _leave_after(edited: PyTree, x: Array, taps: dict, info: StepInfo) -> tuple[PyTree, Array]:
    return edited, x


def _shows_nothing(edited: PyTree) -> dict[str, Array]:
    return {}


class Edit(NamedTuple):
    """What an editing method does around each step. Each part is the identity unless given.

    init: x_T -> edited, a pytree of fixed structure. control: (edited, info) -> the Control handed to the
      network.
    before: (edited, x, info, eps_fn) -> (edited, x). after: (edited, x, taps, info) -> (edited, x).
    shows: edited, as the last step left it -> {what: array with one entry per picture}, such as a 'mask' [B, h, w], for a
      user to look at.
    """

    init: Callable[[Array], PyTree] = _no_state
    control: Callable[[PyTree, StepInfo], Any] = _no_control
    before: Callable[..., tuple[PyTree, Array]] = _leave_before
    after: Callable[..., tuple[PyTree, Array]] = _leave_after
    shows: Callable[[PyTree], dict[str, Array]] = _shows_nothing


def chain_edits(edits: Sequence[Edit]) -> Edit:
    """One edit that does what all of them do, in order, each with its own state and its own records; Edit() for none."""
    if len(edits) < 2:
        return edits[0] if edits else Edit()

    def controls(edited, info):
        return [edit.control(own_state, info) for edit, own_state in zip(edits, edited, strict=True)]

    def before(edited, x, info, eps_fn):
        states = []
        for edit, state in zip(edits, edited, strict=True):
            state, x = edit.before(state, x, info, eps_fn)
            states.append(state)
        return tuple(states), x

    def after(edited, x, taps, info):
        states, used = [], controls(edited, info)
        for i, (edit, state) in enumerate(zip(edits, edited, strict=True)):
            state, x = edit.after(state, x, own(taps, used, i), info)
            states.append(state)
        return tuple(states), x

    def shows(edited):
        found: dict[str, Array] = {}
        for edit, state in zip(edits, edited, strict=True):
            found |= edit.shows(state)
        return found

    return Edit(
        init=lambda x_T: tuple(edit.init(x_T) for edit in edits),
        control=lambda edited, info: chain(controls(edited, info)),
        before=before,
        after=after,
        shows=shows,
    )


def _check_key(key: Array) -> None:
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.ndim > 1:
        raise ValueError(
            f"key: got {key.dtype}{list(key.shape)}, expected a typed key (jax.random.key) "
            "or one per example, [B]"
        )
    impl = str(jax.random.key_impl(key))
    if "rbg" in impl:
        raise ValueError(
            f"key: got one of {impl}, under which an image depends on those beside it, "
            f"expected jax.random.key(seed, impl={KEY_IMPL!r})"
        )


def _fold_in(keys: Array, data: Array | int) -> Array:
    """fold_in of one number into one key, or into each of [B] keys."""
    fold = partial(jax.random.fold_in, data=data)
    return jax.vmap(fold)(keys) if keys.ndim else fold(keys)


def keys_of(seeds: Array) -> Array:
    """[B] uint32 -> [B] typed keys, of threefry whatever jax's default is: a picture depends on its seed alone on every platform
    (vmap over keys of rbg draws from the first one)."""
    return jax.vmap(lambda seed: jax.random.key(seed, impl=KEY_IMPL))(seeds)


def step_infos(timesteps: Array, key: Array, start: Array | int = 0, first_key: Array | int = 0) -> StepInfo:
    """One StepInfo per timestep, stacked: fields [S], int32 but for float timesteps; key [S] or [S, B].

    timesteps: [S] integers or floats in [0, T-1], in the order they are visited (descending). key: [] or [B]
      typed key. start: the place in timesteps that index counts from, negative before it (keys as at 0 there).
    first_key: the number that the key of index 0 is made from; those after it count on.
    Raises: ValueError if timesteps is not one-dimensional or is empty, or key is not a typed key of that
    shape.
    """
    _check_key(key)
    timesteps = jnp.asarray(timesteps)
    timesteps = timesteps.astype(jnp.float32 if jnp.issubdtype(timesteps.dtype, jnp.floating) else jnp.int32)
    if timesteps.ndim != 1 or not timesteps.size:
        raise ValueError(f"timesteps: got shape {timesteps.shape}, expected [S] with S >= 1")
    index = jnp.arange(timesteps.shape[0], dtype=jnp.int32) - start
    t_prev = jnp.append(timesteps[1:], timesteps.dtype.type(-1))
    keys = jax.vmap(partial(_fold_in, key))(jnp.maximum(index, 0) + first_key)
    num_steps = jnp.broadcast_to(jnp.int32(timesteps.shape[0] - start), index.shape)
    return StepInfo(index, timesteps, t_prev, keys, num_steps)


def step_noise(key: Array, shape: tuple[int, ...], purpose: str = "sampler") -> Array:
    """Standard normal noise [B, ...] float32 that depends, for image i, on its own key alone.

    key: [B] typed keys, or one, of which image i uses fold_in(key, i): either way neither the batch size nor
      the other images matter.
    purpose: a name; different purposes draw independent noise from one key. The sampler itself draws as
      'sampler', an editing method under its own name, the first latent as 'x_T'.
    Raises: ValueError if key is not a typed key of shape [] or [B], or one of jax's rbg implementations.
    """
    _check_key(key)
    if key.ndim and key.shape[0] != shape[0]:
        raise ValueError(f"key: got {key.shape[0]} keys, expected one or one per example, {shape[0]}")
    keys = key if key.ndim else jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(shape[0]))
    keys = _fold_in(keys, zlib.crc32(purpose.encode()))
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:], jnp.float32))(keys)


def drawn_noise(info: StepInfo, x: Array) -> Array:
    """The noise_fn of samplers unless one is given: fresh noise [B, ...] float32 for this step."""
    return step_noise(info.key, x.shape)


def batch_t(t: Array, x: Array) -> Array:
    """t [] for every example of x [B, ...]: [B], as networks want it, int32 or float32 as t is."""
    return jnp.full((x.shape[0],), t, jnp.asarray(t).dtype)


def sample(
    eps_fn: EpsFn,
    sampler: Sampler,
    x_T: Array,
    timesteps: Array,
    key: Array,
    edit: Edit = Edit(),
    start: Array | int = 0,
    stop: Array | int | None = None,
) -> tuple[Array, PyTree, PyTree]:
    """Runs `sampler` from x_T through `timesteps`, with `edit` around each step, as one lax.scan.

    x_T: [B, ...] float32, x at the first timestep that is visited. timesteps: [S] int32 or float32, descending. key: one typed
      key or one per example, [B].
    start: number of leading timesteps to skip, 0 <= start <= S; what is left is a run of its own, whose first index is 0. A python
      number shortens the scan; a traced int32 [] is one program for every start, whose passed steps cost nothing.
    stop: a traced int32 [], the number of leading timesteps at which the run ends, start <= stop <= S: x is then at timestep
      timesteps[stop]. What begins there goes on as if it were the same run: keys, and with them noise, count from the
      first timestep of all. None: to the end, and keys count from `start`.
    Returns: x [B, ...] float32, the sampler's last state, the edit's last state.
    Raises: ValueError as `step_infos`. Everything but S and the shapes may be traced; jit where it is called.
    """
    if stop is None and isinstance(start, int) and start:
        timesteps, start = timesteps[start:], 0

    def body(carry, info):
        x, state, edited = carry
        edited, x = edit.before(edited, x, info, eps_fn)
        state, x, taps = sampler.step(partial(eps_fn, control=edit.control(edited, info)), state, x, info)
        edited, x = edit.after(edited, x, taps, info)
        return (x, state, edited), None

    def body_within(carry, info):
        passed = info.index < 0 if stop is None else (info.index < 0) | (info.index >= stop - start)
        return lax.cond(passed, lambda carry, info: (carry, None), body, carry, info)

    step = body if stop is None and isinstance(start, int) else body_within
    infos = step_infos(timesteps, key, start, 0 if stop is None else start)
    return lax.scan(step, (x_T, sampler.init(x_T), edit.init(x_T)), infos)[0]
