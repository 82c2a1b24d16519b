"""InfoGAN's term for a diffusion model: how much the network's middle tells of the class that it was told.

A small head Q reads features of the network, their mean over the cells, and says which code c, a class label, it was
given, or of an example whose class was dropped (config.condition_dropout), which it would have been; the cross-entropy
is what the loss adds. Its negative and the entropy of the codes are a lower bound of their mutual information. Decides
what is read and what is compared; terms are added up in objective.py.
Source: Chen et al. 2016, InfoGAN (arXiv:1606.03657), equations 4 and 5: I(c; x) >= E log Q(c | x) + H(c). There x is
what the generator draws and Q shares the discriminator's layers; here x is what the UNet has made of x_t and c, by
default in its middle.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ldm_jax.models.projection import Projection
from ldm_jax.system import System
from ldm_jax.training.alignment import MIDDLE, Recorder, head_name, init_heads
from ldm_jax.training.terms import Term
from ldm_jax.types import Array, PyTree

NAME = "mutual_information"
CODE = "class_labels"  # of the batch


def term(
    *, system: System, weight: float = 0.0, sites: tuple[str, ...] = (MIDDLE,), width: int = 128
) -> Term | None:
    """The options of config.loss.mutual_information; None for weight 0.

    sites: the names of the features that are read, each by a head of its own. width: of a head's hidden layer.
    Raises: ValueError for weight < 0, or a model that is told no class; later for an unknown site.
    """
    if weight < 0:
        raise ValueError(f"loss.mutual_information.weight: got {weight}, expected 0 (off) or more")
    if not weight:
        return None
    told = next((part.conditioner for part in system.parts if CODE in part.kind.TAKES), None)
    if told is None:
        raise ValueError(
            f"loss.mutual_information: the model takes {', '.join(system.takes) or 'no conditions'}, expected {CODE}"
        )
    recorder, head = Recorder(tuple(sites)), Projection(told.num_classes, width, 1)

    def target(batch) -> Array:
        """[B, num_classes] float32: of each example the weights of its classes."""
        labels = batch[CODE]
        if labels.ndim == 1:
            return jax.nn.one_hot(labels, told.num_classes)
        return labels[:, : told.num_classes].astype(jnp.float32)

    def loss(params: PyTree, taps: dict, target: Array) -> Array:
        said = [
            head.apply({"params": params[NAME][head_name(tap)]}, value.mean((1, 2)))
            for tap, value in taps.items()
        ]
        return jnp.stack([cross_entropy(logits, target) for logits in said]).mean(axis=0)

    init = partial(
        init_heads, system=system, recorder=recorder, head=head, what="loss.mutual_information.sites"
    )
    return Term(NAME, weight, recorder, target, loss, init)


def cross_entropy(logits: Array, target: Array) -> Array:
    """-log Q(c | x): logits, target [B, K] -> [B] float32."""
    return -(target * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)


def bound(cross_entropies: Array, codes: Array) -> Array:
    """The lower bound of the mutual information in nats: the entropy of codes [B, K], rows of probabilities whose mean
    is the distribution of the code, less the mean of the cross-entropies [B]."""
    p = codes.mean(0)
    entropy = -jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30)), 0).sum()
    return entropy - cross_entropies.mean()
