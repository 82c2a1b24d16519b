"""The tensors of a corpus model's file, made from their names and shapes alone, so that no weights need be kept."""

from collections.abc import Mapping

import numpy as np

from tests.golden.rule import fill, gen

COUNTERS = {
    "model_ema.decay": np.float32(0.9999),
    "model_ema.num_updates": np.int32(3),
    "scale_factor": np.float32(0.7),
}


def averaged(name: str) -> str:
    """The original's name of the running average of a parameter 'model.…'."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def with_averages(shapes: Mapping[str, tuple]) -> dict[str, tuple]:
    """{name: shape} of a whole file, out of that without the averages of its parameters: there, if their counters
    are."""
    if "model_ema.decay" not in shapes:
        return dict(shapes)
    return dict(shapes) | {
        averaged(name): shape for name, shape in shapes.items() if name.startswith("model.")
    }


def tensor(name: str, shape: tuple, tables: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tensor of that name in a file. A conditioner that is the first stage once more has its weights.

    tables: the buffers of the noise schedule.
    """
    if name in tables:
        return tables[name]
    if name in COUNTERS:
        return COUNTERS[name]
    if name == "logvar":
        return gen(name, shape, 0.1)
    if name.startswith("cond_stage_model.") and ("coder." in name or "quant" in name):
        name = name.replace("cond_stage_model.", "first_stage_model.", 1)
    if name.startswith("model_ema.") and not name.endswith(("bias",)) and len(shape) == 1:
        return (1 + gen(name, shape, 0.1)).astype(np.float32)
    return fill(name, shape)


def inputs(shapes: Mapping[str, tuple]) -> dict[str, np.ndarray]:
    """{name: float32 array in [-1, 1)} of the pictures and latents that a model is asked about."""
    return {name: gen(name, shape, 1.0) for name, shape in shapes.items()}
