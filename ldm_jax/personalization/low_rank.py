"""Small updates of kernels, in the forms in which they are exchanged, and how they are added to a model.

A delta holds, at the path of each kernel that it changes, the factors of one form:
    down [in, r], up [r, out]                     the product (Hu et al. 2021, arXiv:2106.09685, section 4.1)
    down [kh, kw, in, r], up [r, out]             the same of a convolution
    down [in, r], mid [kh, kw, r, r], up          a convolution as a Tucker product (LyCORIS, `use_tucker`)
    hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b    (w1_a w1_b) * (w2_a w2_b) (Hyeon-Woo et al. 2021, arXiv:2108.06098);
                                                  hada_t1, hada_t2 of a convolution
    lokr_w1 | lokr_w1_a, _b; lokr_w2 | _a, _b     kron(w1, w2) (Yeh et al. 2023, arXiv:2309.14859); lokr_t2
    diff                                          the whole update
and beside them `alpha` [], by which the update is scaled with alpha / r, and of DoRA (Liu et al. 2024,
arXiv:2402.09353) `dora_scale`, the norms themselves, or `magnitude` [out], what is added to those of the base.
Beside the kernels there may be the rows of a new word (words.py).
Factors whose names begin with hada, lokr, diff and dora are in torch's layout, [out, in, kh, kw]: that is how they are
defined. A kernel that is q, k and v at once may have factors of each, below 'q', 'k' and 'v'.
It decides the arithmetic; which kernels are adapted is decided by the ways that begin a delta.
Source of the forms: KohakuBlueleaf/LyCORIS@f49d30d lycoris/modules, kohya-ss/sd-scripts@48d368f networks/lora.py.
"""

from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.params import ParamPath, flatten, unflatten
from ldm_jax.personalization import words
from ldm_jax.types import Array, PyTree

PARTS = ("q", "k", "v")  # of a kernel that is all three, in their order
WITH_FACTORS = ("kernel", "bias")


def kernels(params: PyTree, names: Sequence[str], ndim: int, room: str) -> dict[ParamPath, Array]:
    """{path: kernel} of the layers of these names below params[room], whose kernels have this many axes."""
    below = flatten(params.get(room) or {})
    return {
        (room, *path): leaf
        for path, leaf in below.items()
        if len(path) > 1 and path[-1] == "kernel" and path[-2] in names and len(leaf.shape) == ndim
    }


def check_rank(who: str, rank: int, path: ParamPath, kernel: Array) -> None:
    """Raises: ValueError for a rank that is not 1 to the smaller side of the kernel [in, out] or [kh, kw, in, out]."""
    wide, out = int(np.prod(kernel.shape[:-1])), kernel.shape[-1]
    if not 1 <= rank <= min(wide, out):
        raise ValueError(
            f"{who}: rank is {rank}, expected 1 to {min(wide, out)} for {'/'.join(path)} of {wide} x {out}"
        )


def merged(params: PyTree, delta: PyTree, weight: Array | float, alpha: float | None = None) -> PyTree:
    """params, to each kernel of which its update is added `weight` times; the same structure and dtypes.

    The rows of a new word that are in the delta take the place of the last ones. alpha: of factors that have none of
    their own; None is their rank, so that weight counts alone.
    Raises: ValueError for a kernel that the model does not have, or has in another shape.
    """
    factors_alone, rows = words.apart(delta)
    flat = dict(flatten(words.with_rows(params, rows, weight) if rows else params))
    for path, factors in by_kernel(factors_alone):
        if path not in flat:
            raise ValueError(
                f"the delta is for {'/'.join(path)}, and the model has none: it is of another base"
            )
        flat[path] = _with_update(path, flat[path], factors, weight, alpha)
    return unflatten(flat) | {name: tree for name, tree in params.items() if not tree}


def by_kernel(delta: PyTree) -> Iterator[tuple[ParamPath, dict]]:
    """(path of a kernel or bias, its factors, or {part: factors}) in the order of the paths."""

    def below(path: ParamPath, tree: Mapping) -> Iterator:
        for name in sorted(tree):
            if name in WITH_FACTORS:
                yield (*path, name), dict(tree[name])
            else:
                yield from below((*path, name), tree[name])

    yield from below((), delta)


def _with_update(path: ParamPath, kernel: Array, factors: dict, weight, alpha) -> Array:
    if not factors.keys() & set(PARTS):
        return _updated(path, kernel, factors, weight, alpha)
    columns = jnp.split(jnp.asarray(kernel), len(PARTS), axis=-1)
    for i, part in enumerate(PARTS):
        if part in factors:
            columns[i] = _updated((*path, part), columns[i], factors[part], weight, alpha)
    return jnp.concatenate(columns, axis=-1)


def _updated(path: ParamPath, kernel: Array, factors: dict, weight, alpha) -> Array:
    step = update(factors, kernel.shape, alpha)
    if tuple(step.shape) != tuple(kernel.shape):
        raise ValueError(
            f"the delta is for {'/'.join(path)} of {tuple(step.shape)}, and the model has {tuple(kernel.shape)}: "
            "it is of another base"
        )
    if not factors.keys() & {"dora_scale", "magnitude"}:
        return (kernel + weight * step).astype(kernel.dtype)
    directed = _scaled(kernel, step, factors)
    return (kernel + weight * (directed - kernel)).astype(kernel.dtype)


def update(factors: Mapping[str, Array], shape: Sequence[int], alpha: float | None = None) -> Array:
    """The update of a kernel of this shape, [in, out], [kh, kw, in, out] or [n] of a bias: alpha / r times the product
    of its factors.
    """
    form, rank = _product(factors, tuple(shape))
    scale = factors.get("alpha", alpha)
    return form if scale is None or rank is None else form * (scale / rank)


def _product(f: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, int | None]:
    """(the product of the factors in the layout of a kernel, their rank; None where alpha does not count)."""
    if "mid" in f:
        return jnp.einsum("ib,yxba,ao->yxio", f["down"], f["mid"], f["up"]), f["down"].shape[-1]
    if "down" in f:
        return f["down"] @ f["up"], f["down"].shape[-1]
    if "hada_t1" in f:
        halves = [
            jnp.einsum("ijyx,jr,ip->pryx", f[f"hada_t{n}"], f[f"hada_w{n}_b"], f[f"hada_w{n}_a"])
            for n in (1, 2)
        ]
        return _from_torch(halves[0] * halves[1], shape), f["hada_w1_b"].shape[0]
    if "hada_w1_a" in f:
        whole = (f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])
        return _from_torch(whole, shape), f["hada_w1_b"].shape[0]
    if "lokr_w1" in f or "lokr_w1_a" in f:
        return _kronecker(f, shape)
    return _from_torch(f["diff"], shape), None


def _kronecker(f: Mapping[str, Array], shape: tuple[int, ...]) -> tuple[Array, int | None]:
    w1 = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    if "lokr_t2" in f:
        w2 = jnp.einsum("ijyx,jr,ip->pryx", f["lokr_t2"], f["lokr_w2_b"], f["lokr_w2_a"])
    elif "lokr_w2" in f:
        w2 = f["lokr_w2"]
    else:
        w2 = f["lokr_w2_a"] @ f["lokr_w2_b"]
        if len(shape) == 4:
            w2 = w2.reshape(w2.shape[0], -1, *shape[:2])
    rank = f["lokr_w2_b"].shape[0] if "lokr_w2_b" in f else None
    if rank is None and "lokr_w1_b" in f:
        rank = f["lokr_w1_b"].shape[0]
    return _from_torch(jnp.kron(w1.reshape(*w1.shape[:2], *[1] * (w2.ndim - 2)), w2), shape), rank


def _from_torch(whole: Array, shape: tuple[int, ...]) -> Array:
    """[out, in, kh, kw], [out, in * kh * kw] or [out, in] as a kernel of `shape`; of another size, as it is."""
    if whole.size != np.prod(shape) or len(shape) < 2:
        return whole
    if len(shape) == 2:
        return whole.reshape(shape[::-1]).T
    kh, kw, wide, out = shape
    return whole.reshape(out, wide, kh, kw).transpose(2, 3, 1, 0)


def to_torch(kernel: Array) -> Array:
    """A kernel as [out, in] or [out, in, kh, kw]."""
    return kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)


def norms(kernel: Array) -> Array:
    """[out]: the length of what goes into each output, DoRA's magnitudes."""
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=tuple(range(kernel.ndim - 1))))


def _scaled(kernel: Array, step: Array, factors: Mapping[str, Array]) -> Array:
    """DoRA, eq. 5: the direction of kernel + step, in the magnitudes of the factors.

    The gradient does not go through the norm (section 4.3). With `magnitude` the squared norm of the sum is written
    out, so that it is the base's own, to the bit, while step is zero.
    """
    whole = kernel + step
    if "magnitude" in factors:
        axes = tuple(range(kernel.ndim - 1))
        length = jnp.sqrt(before := jnp.sum(jnp.square(kernel), axis=axes))
        change = jnp.sum(step * (2 * kernel + step), axis=axes)
        after = jax.lax.stop_gradient(jnp.sqrt(jnp.maximum(before + change, 0.0)))
        safe = jnp.where(after > 0, after, 1.0)
        return whole * jnp.where(after > 0, (length + factors["magnitude"]) / safe, 1.0)
    scale, turned = factors["dora_scale"], to_torch(whole)
    kept = 0 if scale.shape[0] == turned.shape[0] and scale.shape[1] == 1 else 1
    axes = tuple(axis for axis in range(turned.ndim) if axis != kept)
    length = jnp.sqrt(jnp.sum(jnp.square(turned), axis=axes, keepdims=True))
    scale = scale.reshape([-1 if axis == kept else 1 for axis in range(turned.ndim)])
    return _from_torch(turned * (scale / (length + np.finfo(np.float32).eps)), whole.shape)


def difference(base: Array, tuned: Array, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(down, up): the best update of this rank from one kernel to the other, [in, out] or [kh, kw, in, out].

    Singular vectors, of which `up` holds the values (Eckart and Young 1936), as in networks/extract_lora_from_models.py
    of kohya-ss/sd-scripts, whose clamping of outliers is left out.
    """
    step = np.asarray(tuned, np.float32) - np.asarray(base, np.float32)
    flat = step.reshape(-1, step.shape[-1])
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    down = left[:, :rank].reshape(*step.shape[:-1], rank)
    return down, values[:rank, None] * right[:rank]


def extracted(base: PyTree, tuned: PyTree, rank: int) -> PyTree:
    """The delta of rank at most `rank` from one tree of parameters to another: down and up of each kernel that
    differs.
    """
    delta, after = {}, flatten(tuned)
    for path, kernel in flatten(base).items():
        if path[-1] != "kernel" or np.array_equal(kernel, after[path]):
            continue
        pairs = [((), np.asarray(kernel), np.asarray(after[path]))]
        if path[-2] == "qkv":
            halves = [np.split(array, len(PARTS), axis=-1) for array in pairs[0][1:]]
            pairs = [((part,), *pair) for part, *pair in zip(PARTS, *halves, strict=True)]
        for part, before, now in pairs:
            most = min(int(np.prod(before.shape[:-1])), before.shape[-1])
            down, up = difference(before, now, min(rank, most))
            delta |= {(*path, *part, "down"): down, (*path, *part, "up"): up}
    return unflatten(delta)
