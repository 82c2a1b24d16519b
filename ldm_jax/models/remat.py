"""Which blocks of a network are computed again in the backward pass, and what of them is kept: policies by name.

Decides what the names mean, for every network alike. It knows no network; which modules are blocks is theirs to say.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ldm_jax.types import PyTree

Remat = (
    str | bool | None
)  # as it stands in a config: a name of POLICIES; True is 'full', False and None keep everything


def _products_with_weights(primitive: Any, *args, **params) -> bool:
    """Convolutions, and products without batch axes: those of attention have some, and are as large as its logits."""
    if primitive.name == "conv_general_dilated":
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)


# name: (kinds of blocks that are computed again, what is kept inside of them; None keeps a block's inputs alone)
POLICIES = {
    "full": (("res", "attention"), None),
    "dots": (("res", "attention"), _products_with_weights),
    "attention": (("attention",), None),
    "loop": (("res", "attention", "resample"), None),
}


def check(remat: Remat) -> None:
    """Raises: ValueError for an unknown policy; it lists the known ones."""
    if not (remat is None or isinstance(remat, bool) or remat in POLICIES):
        raise ValueError(
            f"remat: got {remat!r}, expected one of {', '.join(POLICIES)}, or False to compute nothing again"
        )


def block(
    kind: str, module: type[nn.Module], remat: Remat, static_argnums: tuple[int, ...] = ()
) -> Callable[..., Callable]:
    """The class `module`, a block of `kind` ('res', 'attention' or 'resample'), under a policy.

    static_argnums: of __call__'s arguments, self counted, those that are no arrays. Raises: ValueError for what is no
    policy.
    """
    check(remat)
    kinds, policy = POLICIES["full" if remat is True else remat] if remat else ((), None)
    if kind not in kinds:
        return module
    if remat == "loop":
        return in_a_loop(module, static_argnums)
    return nn.remat(module, policy=policy, static_argnums=static_argnums)


def in_a_loop(module: type[nn.Module], static_argnums: tuple[int, ...] = ()) -> Callable[..., Callable]:
    """`module` for gradients inside of a loop: computed again from inputs that depend on the cotangent, and led back
    by weights that do.

    nn.remat keeps apart what is computed twice by barriers, which a CPU's compiler drops before it looks for what is
    the same, and for what no turn of a loop changes: it then kept, beside the activations, a reversed copy of every
    kernel.
    """

    def make(*fields: Any, **named: Any) -> Callable:
        made = module(*fields, **named)

        def call(*inputs: Any) -> Any:
            if made.is_initializing():
                return made(*inputs)
            alone = made.clone(parent=None)
            static = {i - 1: inputs[i - 1] for i in static_argnums if i <= len(inputs)}
            traced = tuple(None if i in static else value for i, value in enumerate(inputs))

            def run(params: PyTree, traced: tuple) -> tuple[Any, PyTree]:
                given = [static.get(i, value) for i, value in enumerate(traced)]
                return alone.apply({"params": params}, *given, mutable=["taps"])

            @jax.custom_vjp
            def again(params: PyTree, traced: tuple) -> tuple[Any, PyTree]:
                return run(params, traced)

            def backward(given: tuple, cotangent: PyTree) -> tuple:
                params, traced = given
                _, back = jax.vjp(run, params, depending(traced, cotangent))
                return depending(back, cotangent)(cotangent)

            again.defvjp(lambda *given: (run(*given), given), backward)
            out, found = again(made.variables.get("params", {}), traced)
            for name, value in found.get("taps", {}).items():
                made.scope.put_variable("taps", name, value)
            return out

        return call

    return make


def depending(values: PyTree, on: PyTree) -> PyTree:
    """values, which no compiler can compute without `on`, whose arrays are finite."""
    arrays = [leaf for leaf in jax.tree.leaves(on) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    zero = sum(0 * jnp.ravel(leaf)[0].astype(jnp.float32) for leaf in arrays)

    def tied(leaf: Any) -> Any:
        inexact = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        return leaf + jnp.asarray(zero, leaf.dtype) if inexact else leaf

    return jax.tree.map(tied, values)
