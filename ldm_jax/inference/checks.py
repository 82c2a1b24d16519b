"""Checks of sampling options and results: unknown options, numbers that are not finite, settings without effect.

Decides which problems are errors and which are only logged. It compiles nothing and draws nothing.
"""

import difflib
import logging
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from tokenizers import models

from ldm_jax.conditioning.text import LONGEST
from ldm_jax.find import did_you_mean
from ldm_jax.params import named_leaves
from ldm_jax.system import System
from ldm_jax.text_files import shown
from ldm_jax.types import PyTree

OUTPUTS = ("np", "pil", "latents")
# diffusers' names for options of `sample`, for an error that gives ours.
ELSEWHERE = dict(
    height="image_shape", width="image_shape", num_inference_steps="num_steps", generator="seeds", image="init_images",
    output_type="output", prompt_embeds="prompt_embeddings", mask_image="fill_masks", callback_on_step_end="callback",
)  # fmt: skip
WORDS = 100  # of a vocabulary are shown
SHOWN = 100  # characters of a prompt shown in the log
log = logging.getLogger(__name__)


def check(settings: Mapping[str, Any]) -> None:
    """settings: from inference.settings.resolve_settings. Raises: ValueError if the number of steps is not an integer,
    the guidance scale is not finite, or eta is neither None nor finite and at least 0."""
    try:
        operator.index(settings["num_steps"])
    except TypeError:
        raise ValueError(f"num_steps: got {shown(settings['num_steps'])}, expected a whole number") from None
    check_number("guidance_scale", settings["guidance_scale"])
    if settings["eta"] is not None:
        check_number("eta", settings["eta"], least=0)
    if isinstance(settings["clip_denoised"], str | bool | Sequence | Mapping):
        raise ValueError(f"clip_denoised is {shown(settings['clip_denoised'])}, expected a number above 0")
    for name in ("spacing", "sampler"):
        if not isinstance(settings[name], str) or len(settings[name]) > 100:
            raise ValueError(f"{name}: got {shown(settings[name])}, expected a name")


def check_number(name: str, value: Any, least: float | None = None, most: float | None = None) -> None:
    """Raises: ValueError unless value is a number, finite in float32 and within the given bounds."""
    number = np.empty(0) if isinstance(value, list | tuple) else np.asarray(value)
    within = number.ndim == 0 and number.dtype.kind in "iuf"
    with np.errstate(over="ignore"):
        within = within and bool(np.isfinite(np.float32(number)))
    within = within and (least is None or number >= least) and (most is None or number <= most)
    if not within:
        bounds = (
            f" from {least} to {most}"
            if most is not None
            else f" of {least} or more"
            if least is not None
            else ""
        )
        raise ValueError(f"{name}: got {shown(value)}, expected a finite number{bounds}")


def check_floats(name: str, images: Any) -> None:
    """Raises: ValueError for images of whole numbers: 0 to 255 would be read as far beyond white."""
    dtype = np.dtype(getattr(images, "dtype", None) or np.asarray(images).dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"{name} are {dtype}, expected floats in [-1, 1] (of uint8, images / 127.5 - 1)")


def without_null(system: System, settings: dict[str, Any], asked: float | None) -> dict[str, Any]:
    """Settings with guidance turned off (scale 1) if the model has no null condition.

    asked: the scale that the user requested; None if the scale is only the recommended one. Raises: ValueError if the
    model has no null condition and the requested scale is not 1.
    """
    if system.drops or float(settings["guidance_scale"]) == 1.0:
        return settings
    if asked is not None:
        classes = "class_labels" in system.takes
        hint = (
            "; if the last row of its table of classes stands for no class, open it with --null_class"
            if classes
            else ""
        )
        raise ValueError(
            f"guidance_scale: got {asked}, and this model has no null condition that guidance leads away "
            f"from, expected 1{hint}"
        )
    return dict(settings, guidance_scale=1.0)


def say_what_has_no_effect(
    guided: bool, negative_prompts: Sequence[str] | None, strength: float, num_steps: int, num_run: int
) -> None:
    """Logs settings that have no effect. num_run: the steps that remain of num_steps after strength."""
    if not guided and negative_prompts is not None and any(negative_prompts):
        log.warning("the negative prompt has no effect: guidance is off, its scale is 1")
    if strength > 0 and not num_run:
        log.warning(
            "strength %s of %d steps is none at all: pictures are only encoded and decoded; give more steps "
            "or strength",
            strength,
            num_steps,
        )


def say_unknown_words(prompts: Sequence[str], tokenizer: Any) -> None:
    """Logs each prompt that contains words outside the tokenizer's vocabulary; they all become the same token."""
    if not isinstance(tokenizer.model, models.WordLevel | models.WordPiece):
        return  # other tokenizers split unknown words into known pieces
    for prompt in dict.fromkeys(prompts):
        encoding = tokenizer.encode(prompt[:LONGEST])
        parts = zip(encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
        spans = [span for token, special, span in parts if token == tokenizer.model.unk_token and not special]
        unknown = dict.fromkeys(prompt[start:stop] for start, stop in spans if start < stop)
        if unknown:
            words = ", ".join(repr(word[:SHOWN]) for word in unknown)
            known = _known_words(tokenizer, unknown)
            log.warning("prompt %r: the model does not know %s%s", prompt[:SHOWN], words, known)


def _known_words(tokenizer: Any, unknown: Iterable[str]) -> str:
    """'; its words are …' of a closed vocabulary, or of one of more than WORDS the nearest to the unknown ones."""
    if not isinstance(tokenizer.model, models.WordLevel):
        return ""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    words = sorted(w for w in tokenizer.get_vocab() if w not in special and any(c.isalnum() for c in w))
    if len(words) <= WORDS:
        return f"; its words are: {', '.join(words)}"
    near = dict.fromkeys(w for word in unknown for w in difflib.get_close_matches(word.lower(), words, n=3))
    return f"; of its {len(words)} words the nearest are: {', '.join(near)}" if near else ""


def check_drawn(seeds: np.ndarray, settings: Mapping[str, Any], params: PyTree, *drawn: np.ndarray) -> None:
    """Checks that results are finite. drawn: arrays [N, ...] computed for the seeds [N].

    Raises: ValueError that names the seeds with results that are not finite, and the parameters that are not, if any.
    """
    wrong = [not all(np.isfinite(array[i]).all() for array in drawn) for i in range(len(seeds))]
    if not any(wrong):
        return
    named = ", ".join(str(seed) for seed in seeds[wrong][:10]) + (", …" if sum(wrong) > 10 else "")
    bad = [name for name, leaf in named_leaves(params).items() if not jnp.isfinite(leaf).all()]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"seeds {named}: no picture, parameter {bad[0]}{more} of the model is not finite")
    said = ", ".join(f"{name} {settings[name]}" for name in ("guidance_scale", "eta", "sampler", "num_steps"))
    raise ValueError(
        f"seeds {named}: no picture, what was drawn is not finite, though every parameter is: at {said}; "
        "expected a smaller guidance_scale or eta, or a model of dtype float32"
    )


def check_options(system: System, asked: Mapping, conditions: Mapping) -> None:
    """Raises: ValueError for an unknown option or condition of `sample`, and for an unknown output."""
    for name in conditions:
        if name not in system.takes:
            near = (
                f"; it is called {ELSEWHERE[name]!r}"
                if name in ELSEWHERE
                else did_you_mean(name, [*asked, *system.takes])
            )
            if near:
                raise ValueError(f"sample has no option {name!r}{near}")
            takes = ", ".join(n for n in system.takes if n != "seeds") or "no conditions"
            raise ValueError(f"this model takes {takes}, got {name}")
    for name in ("batch_size", "tile"):
        whole = isinstance(asked[name], numbers.Integral) and not isinstance(asked[name], bool)
        if not whole and (name, asked[name]) != ("tile", None):
            raise ValueError(f"{name}: got {shown(asked[name])}, expected a whole number")
    for name in ("progress", "callback"):
        if asked[name] is not None and not callable(asked[name]):
            raise ValueError(f"{name}: got {asked[name]!r}, expected a function")
    if not isinstance(asked["sampler_options"], Mapping | None):
        raise ValueError(f"sampler_options: got {asked['sampler_options']!r}, expected {{option: value}}")
    known = (*OUTPUTS, "branches", "edited")
    if asked["output"] not in known:
        raise ValueError(f"output {asked['output']!r} not found; there are: {', '.join(OUTPUTS)}")
