"""What a further term of the second stage's loss is: something read from inside of the network, and compared.

It decides what a term consists of; the terms themselves are token_masks.py and alignment.py, and objective.py adds them
up.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ldm_jax.control.base import Control
from ldm_jax.types import Array, PyTree


class Term(NamedTuple):
    """One term of the loss beside the error of the prediction.

    name: of its options in config.loss, of its parameters in the training state, and with 'loss_' of its metric.
    weight: above 0. recorder: reads the network.
    target(batch) -> what is read is compared with this, an array [B, …] of or made of the batch.
    loss(params, taps, target) -> [B] float32; params: of the training state; taps: what the recorder read.
    init(key, params) -> the term's own parameters, where it has any, which train with the network and are no part of
    the model; params: of the network and its conditioners, arrays or shapes.
    """

    name: str
    weight: float
    recorder: Control
    target: Callable[[Mapping[str, Array]], Array]
    loss: Callable[[PyTree, dict, Array], Array]
    init: Callable[[Array, PyTree], PyTree] | None = None
