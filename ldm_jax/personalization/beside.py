"""Where the parameters of what stands beside a network are put when it is merged."""

import jax

from ldm_jax.types import Array, PyTree


def placed(params: PyTree, own: PyTree, name: str, what: str) -> PyTree:
    """params, where the last of the places name.format(0), name.format(1), … beside the network holds `own`.

    Raises: ValueError that begins with `what` for a model that has none, or one of another structure.
    """
    unet = params["unet"]
    number = sum(place.startswith(name.format("")) for place in unet)
    if not number:
        raise ValueError(f"{what}: the model has no place for one, expected config.conditioning.{what}")
    last = name.format(number - 1)  # the name itself, where there is one place alone
    there, given = ({k: leaf.shape for k, leaf in _leaves(tree).items()} for tree in (unet[last], own))
    if there != given:
        wrong = sorted(k for k in there.keys() | given if there.get(k) != given.get(k))
        raise ValueError(
            f"{what}: {len(wrong)} of its arrays do not fit this model, such as {wrong[0]} of "
            f"{given.get(wrong[0])}, here {there.get(wrong[0])}: it is of another base"
        )
    return dict(params, unet=dict(unet) | {last: own})


def _leaves(tree: PyTree) -> dict[str, Array]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
