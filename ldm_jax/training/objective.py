"""The loss of the second stage (Rombach et al. 2022, eq. 2): encode, noise, drop, predict, weigh.

It knows the config and the parts of the model; where batches come from and what is done with the gradient is others'.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.conditioning.base import drop
from ldm_jax.config import call, pick
from ldm_jax.control.base import chain, own
from ldm_jax.data.latents import TEXT
from ldm_jax.data.prior import WEIGHT
from ldm_jax.diffusion import learned_variance
from ldm_jax.diffusion import loss as diffusion_loss
from ldm_jax.diffusion.process import q_sample, x_start_and_eps
from ldm_jax.models import latent_scale
from ldm_jax.models.controlnet import apply_network
from ldm_jax.system import System
from ldm_jax.training import alignment, mutual_information, token_masks
from ldm_jax.training.optimizer import stop_gradients
from ldm_jax.training.state import example_keys
from ldm_jax.training.terms import Term
from ldm_jax.training.token_masks import MASKS
from ldm_jax.types import Array, Cond, PyTree

# lambda of L_hybrid, by which the sum over timesteps is weighed (Nichol and Dhariwal 2021, section 3.1)
VLB_WEIGHT = 0.001
OTHERS = (
    "token_masks",
    "alignment",
    "mutual_information",
    "masked",
    "background",
)  # of config.loss, beside the options of diffusion_loss
BINS = 10  # of timesteps, whose losses are logged apart


def diffusion_objective(config: Mapping[str, Any], system: System) -> Callable:
    """loss(params, frozen, batch, seed, step) -> (scalar, metrics): those of diffusion_loss, `loss_by_timestep`, and
    'loss_<name>' of each further term, 'loss_variance' in bits per number where the network learns the variance.

    params: {'unet', 'conditioner'}, and what is learned beside them (`init_learned`).
    frozen: {'first_stage': parameters, 'latent_scale': LatentScale, or its factor alone, [] float32}.
    batch: 'moments' [B,h,w,2c] or 'image' [B,H,W,C], the inputs of the conditioning, 'position' [B] int32, and maybe
    'loss_weight' [B] float32, 'token_masks' [B, L, h, w] and 'unnamed' [B, h, w] float32, which with config.loss.masked
    say where the error counts.
    All randomness comes from each example's own key, so that it does not depend on the number of devices.
    Raises: ValueError for an unknown option of config.loss.
    """
    null, schedule, prediction_type = system.null_inputs(1), system.schedule, system.prediction_type
    stratify = config["batch_size"] if config.get("stratified_timesteps") else 0
    terms, weigh = further_terms(config, system), _weigh(config, system)
    density = timestep_density(config.get("timestep_density"))
    vlb_weight = config.get("loss", {}).get("vlb_weight", VLB_WEIGHT)
    masked = {name: (config.get("loss") or {}).get(name, False) for name in ("masked", "background")}

    def loss(params, frozen, batch, seed, step):
        keys = example_keys(seed, step, batch["position"])
        keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 5))(keys), 1, 0)
        posterior_key, noise_key, t_key, drop_key, network_key = keys
        if stratify:
            t_key = example_keys(seed, step, jnp.full_like(batch["position"], -1))

        # 1. Encode: images to latents of about unit variance, a sample of the posterior where there is one.
        x_start = encode(system, frozen, batch, posterior_key)

        # 2. Noise: x_t = sqrt(alphas_cumprod[t]) x_start + sqrt(1 - alphas_cumprod[t]) noise.
        noise = jax.vmap(lambda key: jax.random.normal(key, x_start.shape[1:]))(noise_key)
        t = sample_timesteps(t_key, batch["position"], schedule.num_timesteps, stratify, density)
        x_t = q_sample(schedule, x_start, t, noise)

        # 3. Drop: some examples get the null condition, for classifier-free guidance (Ho and Salimans 2022).
        inputs = {k: batch[k] for k in (*null, *TEXT) if k in batch}
        inputs |= {term.name: term.target(batch) for term in terms}
        inputs = drop_condition(system, inputs, null, config.get("condition_dropout"), drop_key)

        # 4. Predict: the noise, x_start or v, as prediction_type says.
        inputs = system.encode_inputs(frozen["first_stage"], frozen["latent_scale"], inputs)
        trained = stop_gradients(params, config.get("freeze") or ())
        prediction, errors = predict(system, trained, x_t, t, inputs, null, network_key, terms)

        # 5. Weigh: the error of each example by its timestep, and what further terms add.
        if system.learned_variance:
            prediction, nu = learned_variance.split(prediction)
        target = diffusion_loss.target(prediction_type, schedule, x_start, noise, t)
        logvar = {"logvar": params["logvar"]} if "logvar" in params else {}
        mask = token_masks.region(batch, **masked)
        total, per_example, metrics = weigh(
            prediction, target, t, weights=batch.get(WEIGHT), mask=mask, **logvar
        )
        if system.learned_variance:  # L_hybrid (Nichol and Dhariwal 2021, eq. 16)
            predicted, _ = x_start_and_eps(schedule, x_t, t, prediction.astype(jnp.float32), prediction_type)
            bits = learned_variance.vlb_bits(schedule, x_start, x_t, t, predicted, nu)
            metrics["loss_variance"] = (bits * batch.get(WEIGHT, 1.0)).mean()
            metrics["loss"] = total = total + vlb_weight * schedule.num_timesteps * metrics["loss_variance"]
        for term in terms:
            metrics[f"loss_{term.name}"] = errors[term.name].mean()
            metrics["loss"] = total = total + term.weight * metrics[f"loss_{term.name}"]
        table = loss_by_timestep(per_example, t, schedule.num_timesteps)
        return total, dict(metrics, loss_by_timestep=table)

    return loss


def further_terms(config: Mapping[str, Any], system: System) -> tuple[Term, ...]:
    """Those that config.loss adds to the error of the prediction. Raises: ValueError for a wrong option of theirs."""
    options = config.get("loss", {})
    masks = call(token_masks.term, options.get("token_masks") or {}, "loss.token_masks")
    aligned = call(alignment.term, options.get("alignment") or {}, "loss.alignment", system=system)
    informed = options.get(mutual_information.NAME) or {}
    informed = call(mutual_information.term, informed, "loss.mutual_information", system=system)
    return tuple(term for term in (masks, aligned, informed) if term)


def init_learned(config: Mapping[str, Any], system: System, params: PyTree, key: Array) -> PyTree:
    """What the loss learns beside params, those of the network and its conditioners: 'logvar' [T] float32, and under
    their names the parameters of further terms, where the config asks for them."""
    options, learned = config.get("loss", {}), {}
    if options.get("learn_logvar"):
        start = options.get("logvar_init", 0.0)
        learned["logvar"] = jnp.full(system.schedule.num_timesteps, start, jnp.float32)
    for i, term in enumerate(further_terms(config, system)):
        if term.init:
            learned[term.name] = term.init(jax.random.fold_in(key, i), params)
    return learned


def _weigh(config: Mapping[str, Any], system: System) -> Callable:
    """config.loss as diffusion_loss of (prediction, target, t). Raises: ValueError for an unknown option."""
    options = {k: v for k, v in config.get("loss", {}).items() if k not in OTHERS}
    if options.pop("vlb_weight", None) is not None and not system.learned_variance:
        raise ValueError(
            "loss.vlb_weight is of a learned variance, expected config.learned_variance=True beside it"
        )
    learned, start = options.pop("learn_logvar", False), options.pop("logvar_init", 0.0)
    given = {
        "schedule": system.schedule,
        "prediction_type": system.prediction_type,
        # The original's logvar is a vector of one number unless it is learned, and then a parameter.
        "logvar": jnp.full(system.schedule.num_timesteps, start, jnp.float32)
        if start and not learned
        else None,
        "weights": None,  # of the examples, which a batch has, and
        "mask": None,  # of their cells
    }

    def bound(**options):
        return functools.partial(diffusion_loss.diffusion_loss, **options)

    return call(bound, options, "loss", then=diffusion_loss.diffusion_loss, **given)


def encode(system: System, frozen: PyTree, batch: Mapping[str, Array], keys: Array) -> Array:
    """[B,h,w,c] float32, scaled latents of batch['image'] [B,H,W,C], or of batch['moments'] [B,h,w,2c or c], which
    are what the first stage encodes: a sample of the posterior by keys [B], where there is one."""
    encoded = batch.get("moments")
    if encoded is None:
        encoded = system.first_stage.encode(frozen["first_stage"], batch["image"])
    return latent_scale.of(frozen["latent_scale"]).scale(system.first_stage.sample_of(encoded, keys))


def timestep_density(section: Mapping[str, Any] | None) -> Callable[[Array], Array]:
    """config.timestep_density {name: one of DENSITIES, **options}, logit_normal by default, as a function from uniform
    numbers to fractions of the timesteps, both in [0, 1). Raises: ValueError for an unknown name or option.
    """
    make, options = pick({"name": "logit_normal"} | dict(section or {}), "timestep_density", DENSITIES)
    return call(make, options, "timestep_density")


def cosine(skew: float = 0.5, intervals: int = 1024) -> Callable[[Array], Array]:
    """Fractions u of density 1 - skew cos(pi u) (Huang et al. 2023, ReVersion, arXiv:2303.13495, eq. 7): with 0.5 the
    noisiest are drawn three times as often as the cleanest.

    The inverse of its distribution, u - skew sin(pi u) / pi, from a table of `intervals`, straight between them.
    Raises: ValueError for a skew outside [-1, 1], of which the density would be negative.
    """
    if not -1 <= skew <= 1:
        raise ValueError(f"timestep_density.skew: got {skew}, expected -1 to 1")
    fractions = np.linspace(0, 1, intervals + 1)
    distribution = fractions - skew * np.sin(np.pi * fractions) / np.pi
    return lambda uniform: jnp.interp(uniform, distribution, fractions)


def logit_normal(mean: float | None = None, std: float = 1.0) -> Callable[[Array], Array]:
    """The options of config.timestep_density: what makes a uniform number the fraction of the timesteps at which an
    example is noised. Without a mean they are drawn evenly, as the original does.

    With it, the fraction's logit is normal (Esser et al. 2024, arXiv:2403.03206, section 3.1): a mean above 0 draws
    more of the high noise, at which the layout of a picture is decided, a small std draws little of both ends.
    Raises: ValueError for std <= 0.
    """
    if std <= 0:
        raise ValueError(f"timestep_density.std: got {std}, expected a number above 0")
    if mean is None:
        return lambda uniform: uniform
    return lambda uniform: jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(uniform))


DENSITIES = {"logit_normal": logit_normal, "cosine": cosine}


def sample_timesteps(
    keys: Array,
    position: Array,
    num_timesteps: int,
    stratify: int = 0,
    density: Callable[[Array], Array] = logit_normal(),
) -> Array:
    """[B] int32 in [0, num_timesteps), each uniform there, or of `density`.

    stratify: 0 draws them independently, as the original does. A number n (the global batch size) makes the n draws of
    a step fill the range evenly: a shared offset plus position / n (Kingma et al. 2021, appendix I.1); `keys` then
    must hold the same offset key for every example.
    """
    uniform = jax.vmap(jax.random.uniform)(keys)
    if stratify:
        uniform = (uniform + position / stratify) % 1.0
    return jnp.minimum((density(uniform) * num_timesteps).astype(jnp.int32), num_timesteps - 1)


def drop_condition(
    system: System,
    inputs: Mapping[str, Array],
    null: Mapping[str, Array],
    probability: float | Mapping[str, float] | None,
    keys: Array,
) -> dict[str, Array]:
    """inputs, each [B, …], where an example has those of system.drops from null, [1, …], with this probability, by
    keys [B].

    probability: of all kinds at once, or {kind: its own}, each drawn for itself, as for guidance by several conditions
    (Brooks et al. 2023, arXiv:2211.09800, section 3.2.1; Liu et al. 2022). Kinds that are not named are not dropped.
    Raises: ValueError for a kind that the model has not, or that has nothing that means nothing.
    """
    inputs = dict(inputs)
    if isinstance(probability, Mapping):
        stored = [name for name in TEXT if name in inputs]
        if stored and len(system.parts) > 1:
            raise ValueError(
                f"config.condition_dropout of each kind and stored outputs of the text encoder ({stored[0]}): expected "
                "one number, or captions that are not stored"
            )
        for kind, own in probability.items():
            part = next((part for part in system.parts if part.name == kind), None)
            if part is None or not set(part.kind.DROPS) & set(system.drops):
                known = [p.name for p in system.parts if set(p.kind.DROPS) & set(system.drops)]
                raise ValueError(
                    f"config.condition_dropout names {kind!r}; the kinds of this model that can be dropped are: "
                    f"{', '.join(known) or 'none'}"
                )
            alone = system._replace(parts=(part,))
            place = [p.name for p in system.parts].index(kind)
            own_keys = jax.vmap(lambda key, place=place: jax.random.fold_in(key, place))(keys)
            inputs = drop_condition(alone, inputs, null, own, own_keys)
        return inputs
    if not system.drops or not probability:
        return inputs
    keep = jax.vmap(jax.random.uniform)(keys) >= probability
    dropped = {k: inputs[k] for k in system.drops}
    nothing = {k: jnp.broadcast_to(null[k], dropped[k].shape) for k in dropped}
    if MASKS in inputs:  # words that are dropped refer to nothing
        dropped[MASKS], nothing[MASKS] = inputs[MASKS], jnp.zeros_like(inputs[MASKS])
    return inputs | drop(dropped, nothing, keep)


def predict(
    system: System,
    params: PyTree,
    x_t: Array,
    t: Array,
    inputs: Mapping[str, Array],
    null: Mapping[str, Array],
    keys: Array,
    terms: Sequence[Term] = (),
) -> tuple[Array, dict[str, Array]]:
    """(the prediction [B,h,w,c], the errors [B] float32 of `terms` by their names) of x_t [B,h,w,c] at t [B] under
    `inputs`, with the target of each term under its name among them.

    null: system.null_inputs(1). keys: [B], of dropout, which is off if no module has any.
    """

    controls = [term.recorder for term in terms]

    def network(x_t, t, inputs, key=None):
        inputs = dict(inputs)
        targets = [inputs.pop(term.name) for term in terms]
        network_key, conditioner_key = (None, None) if key is None else jax.random.split(key)
        cond = condition(system, params, inputs, null, key is None, conditioner_key)
        prediction, taps = apply_network(
            system.unet, params["unet"], x_t, t, cond, chain(controls), dropout_key=network_key
        )
        errors = {
            term.name: term.loss(params, own(taps, controls, i), target)
            for i, (term, target) in enumerate(zip(terms, targets, strict=True))
        }
        return prediction, errors

    if not has_dropout(system):
        return network(x_t, t, inputs)

    def alone(*example):  # with its own key: its dropout may not depend on which others its device has
        *example, key = example
        given = jax.tree.map(lambda x: x[None], example)
        return jax.tree.map(lambda x: x[0], network(*given, key))

    return jax.vmap(alone)(x_t, t, inputs, keys)


def condition(
    system: System,
    params: PyTree,
    inputs: Mapping[str, Array],
    null: Mapping[str, Array],
    deterministic: bool = True,
    key: Array | None = None,
) -> Cond:
    """System.condition of `inputs`, or stored outputs of the text encoder for their captions (docs/latents.md).

    Stored are `text_context` [B, L, D] and, if the encoder also returns a vector, `text_vector` [B, P], and
    `text_vector_null`, the vector without the caption. They do not account for dropped conditions: an example with
    inputs equal to null, system.null_inputs(1), gets the encoder's output for null. The encoder runs only for null.
    """
    context, vector, vector_null = (inputs.get(name) for name in TEXT)
    if context is None:
        return system.condition(params, inputs, deterministic, key)
    nothing = system.condition(params, null).context
    same = [(inputs[k] == null[k]).reshape(len(context), -1).all(axis=1) for k in system.drops]
    dropped = jnp.stack(same).all(axis=0)
    if vector is not None:
        vector = jnp.where(dropped[:, None], vector_null, vector)
    context = jnp.where(dropped[:, None, None], nothing, context.astype(nothing.dtype))
    return Cond(context=context, vector=vector)


def has_dropout(system: System) -> bool:
    """Whether the network or what it is conditioned on leaves out anything at random."""
    modules = [system.unet, *(part.conditioner for part in system.parts)]
    return any(getattr(m, name, 0.0) for m in modules for name in ("dropout", "embedding_dropout"))


def loss_by_timestep(per_example: Array, t: Array, num_timesteps: int, bins: int = BINS) -> Array:
    """[2, bins] float32: the sum of per_example [B] float32 over the examples of each of `bins` equal parts of
    [0, num_timesteps), and their number; t: [B] int32.

    Sums and numbers, as they may be averaged over devices and added up over steps, which means of few examples may not.
    """
    within = t[:, None] * bins // num_timesteps == jnp.arange(bins)  # [B, bins]
    return jnp.stack([jnp.where(within, per_example[:, None], 0.0).sum(0), within.sum(0, jnp.float32)])
