"""Counting the floating point operations of a function from its jaxpr: those of matrix products and convolutions.

Decides what counts: a multiplication and an addition are two, elementwise work is none, products with padding are none,
as in XLA's own count. What no result hangs on is none either. A function is traced, never run. What is recomputed
counts as often as it is written down, so that a model's FLOPs are counted without rematerialization. It knows no model.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Var


def count(fn: Callable, *args) -> int:
    """FLOPs of fn(*args), over all devices together. args: arrays, or jax.ShapeDtypeStructs."""
    return of_jaxpr(jax.make_jaxpr(fn)(*args).jaxpr)


def of_kernels(fn: Callable, *args) -> int:
    """FLOPs of the Pallas kernels of fn(*args) that a TPU runs, as they say themselves. Arguments as of `count`."""
    return sum(_of_kernel(equation) for equation in _on_tpu(jax.make_jaxpr(fn)(*args).jaxpr))


def _on_tpu(jaxpr: Any) -> Iterator[Any]:
    """The equations of Pallas kernels, inside of others too, but not those for other platforms."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
        elif "tpu" in _platforms(equation):
            yield from _on_tpu(equation.params["branches"][_platforms(equation).index("tpu")].jaxpr)
        else:
            for inner in _jaxprs(equation.params):
                yield from _on_tpu(inner)


def _platforms(equation: Any) -> list[str]:
    """Of a jax.lax.platform_dependent, the first platform of each branch; the last is for all others."""
    return [names[0] if names else "" for names in equation.params.get("branches_platforms") or ()]


def _of_kernel(equation: Any) -> int:
    cost = equation.params.get("cost_estimate")
    return cost.flops if cost else 0


def of_jaxpr(jaxpr: Any, run_loops: bool = True, branch: Callable = max) -> int:
    """FLOPs of a jaxpr, over all devices together.

    A scan counts as often as it runs, or once without `run_loops`. A while loop counts once: how long it goes on is in
    its data. Of a cond's branches, the costliest counts, or with `branch` min the cheapest. Of those that are a
    platform's, the costliest, but none that is for CPUs alone: what attention computes again there is no part of a
    model's FLOPs.
    """
    return sum(_of_equation(equation, run_loops, branch) for equation in _live(jaxpr))


def _live(jaxpr: Any) -> list[Any]:
    """The equations on which a result or an effect of the jaxpr hangs: a compiler drops the others, such as the deep
    part of a network whose trunk is replaced by a kept one."""
    wanted, live = {v for v in jaxpr.outvars if isinstance(v, Var)}, []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not wanted.isdisjoint(equation.outvars):
            wanted.update(v for v in equation.invars if isinstance(v, Var))
            live.append(equation)
    return live[::-1]


def _of_equation(equation: Any, run_loops: bool, branch: Callable) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "pallas_call":
        return _of_kernel(equation)
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inside = [of_jaxpr(jaxpr, run_loops, branch) for jaxpr in _jaxprs(params)]
    if name == "cond":
        platforms = _platforms(equation)
        if not platforms:
            return branch(inside)
        return max((n for n, one in zip(inside, platforms, strict=True) if one != "cpu"), default=0)
    times = 1
    if name == "scan" and run_loops:
        times = params["length"]
    if name == "shard_map":
        times = math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return times * sum(inside)


def _jaxprs(params: dict) -> Iterator[Any]:
    for value in params.values():
        for leaf in value if isinstance(value, tuple | list) else (value,):
            leaf = getattr(leaf, "jaxpr", leaf)  # of a ClosedJaxpr
            if hasattr(leaf, "eqns"):
                yield leaf


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    summed = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed


def _convolution(equation: Any) -> int:
    params = equation.params
    image, kernel = (v.aval.shape for v in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    image_spec, kernel_spec, out_spec = params["dimension_numbers"]
    windows = zip(
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    pairs = 1
    for axis, window in enumerate(windows, start=2):
        sizes = (
            shape[spec[axis]] for shape, spec in ((image, image_spec), (kernel, kernel_spec), (out, out_spec))
        )
        pairs *= _pairs(*sizes, *window)
    batch, features, per_group = out[out_spec[0]], out[out_spec[1]], kernel[kernel_spec[1]]
    return 2 * batch * features * per_group * pairs


def _pairs(
    size: int, taps: int, out: int, stride: int, padding: Sequence[int], dilation: int, tap_dilation: int
) -> int:
    """(output, tap) pairs along one axis that meet an element of the image, and neither padding nor a gap."""
    at = np.arange(out)[:, None] * stride + np.arange(taps)[None] * tap_dilation - padding[0]
    return int(((at >= 0) & (at <= (size - 1) * dilation) & (at % dilation == 0)).sum())
