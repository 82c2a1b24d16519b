"""Which blocks of a network are computed again in the backward pass, and what of them is kept: policies by name.

Decides what the names mean, for every network alike. It knows no network; which modules are blocks is theirs to say.
"""

from typing import Any

import jax
from flax import linen as nn

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
}


def check(remat: Remat) -> None:
    """Raises: ValueError for an unknown policy; it lists the known ones."""
    if not (remat is None or isinstance(remat, bool) or remat in POLICIES):
        raise ValueError(
            f"remat: got {remat!r}, expected one of {', '.join(POLICIES)}, or False to compute nothing again"
        )


def block(
    kind: str, module: type[nn.Module], remat: Remat, static_argnums: tuple[int, ...] = ()
) -> type[nn.Module]:
    """The class `module`, a block of `kind` ('res' or 'attention'), under a policy.

    static_argnums: of __call__'s arguments, self counted, those that are no arrays. Raises: ValueError for what is no
    policy.
    """
    check(remat)
    kinds, policy = POLICIES["full" if remat is True else remat] if remat else ((), None)
    return nn.remat(module, policy=policy, static_argnums=static_argnums) if kind in kinds else module
