"""Turns the guidance and editing methods of a call into static choices and arguments of the compiled program.

A method's name and static options are part of the program's recipe. Its numbers, maps, masks and token indices are
arguments, so that changing them does not recompile. A method at its neutral setting is left out, so the result is
bit-identical to no method. Wrong choices are reported here, before anything is compiled. No method is named in this
file: a new one is a new file.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ldm_jax.conditioning import phrases, tokens
from ldm_jax.data import pictures, transforms
from ldm_jax.diffusion.denoiser import Denoiser
from ldm_jax.find import did_you_mean, find
from ldm_jax.inference import classifiers, weaker
from ldm_jax.models.unet import UNet
from ldm_jax.samplers.base import Edit, Sampler, chain_edits
from ldm_jax.system import System
from ldm_jax.types import Cond, EpsFn, PyTree

# The function of a method's module that builds it, by room.
MAKES = {"guidance": "guide", "editing": "edit", "inversion": "invert", "recognition": "recognize"}
Asked = str | Mapping[str, Any] | Sequence | None


class Call(NamedTuple):
    """The properties of a call that a method's `prepare` can use.

    num_pictures: N. visited: [S] timesteps. latent_shape: (h, w, c). prompts: one per picture, or None. tokenizer: the
    model's, or None. guidance_scale: a number. inverted: the arrays of inversion/base.py of the pictures that are
    edited, [N, ...] each; None where pictures are drawn from noise. decoder: names of the residual blocks on the
    network's way up, in order. sampler: its name. image_shape: (H, W). system: the model.
    """

    num_pictures: int
    visited: np.ndarray
    num_timesteps: int
    latent_shape: tuple[int, int, int]
    prompts: Sequence[str] | None
    tokenizer: Any
    guidance_scale: float
    inverted: Mapping[str, np.ndarray] | None = None
    decoder: tuple[str, ...] = ()
    sampler: str = "ddim"
    image_shape: tuple[int, int] = (0, 0)
    system: System | None = None

    def align(self, source: str, target: str) -> np.ndarray:
        """See conditioning.tokens.align."""
        return tokens.align(self.tokenizer, source, target)

    def each(self, value: Any, name: str) -> np.ndarray:
        """[N] float32, one number for each picture; one alone is that of all. Raises: ValueError for what is neither;
        name: the option's, in the message."""
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" or not np.all(np.isfinite(array)):
            raise ValueError(f"{name} is {value!r}, expected finite numbers")
        if array.shape not in ((), (self.num_pictures,)):
            raise ValueError(
                f"{name} has shape {array.shape}, expected one entry for each of {self.num_pictures} pictures"
            )
        return np.broadcast_to(array, (self.num_pictures,)).astype(np.float32)

    def refine(self, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        """See conditioning.tokens.refine."""
        return tokens.refine(self.tokenizer, source, target)

    def word_count(self, prompt: str) -> int:
        """How many words a prompt has."""
        return len(tokens.words(self.tokenizer, prompt))

    def token_indices(self, prompt: str, word: str) -> list[int]:
        """See conditioning.tokens.indices."""
        return tokens.indices(self.tokenizer, prompt, word)

    def picture(self, given: Any) -> np.ndarray:
        """[H, W, 3] float32 in [-1, 1] of a file, or of a picture as LatentDiffusion.sample takes one. Raises:
        ValueError for anything else."""
        image = pictures.read_picture(given) if isinstance(given, str | Path) else np.asarray(given)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype.kind not in "uf":
            raise ValueError(
                f"a picture is {image.dtype} of shape {image.shape}, expected uint8 or floats (height, width, 3)"
            )
        return transforms.to_float(image) if image.dtype == np.uint8 else image.astype(np.float32)

    def classifier(self, name: str) -> classifiers.Classifier:
        """See classifiers.of_pictures."""
        return classifiers.of_pictures(_a_name(name, "classifier"))

    def noisy_classifier(self, path: str) -> classifiers.Classifier:
        """See classifiers.of_noised_latents: that takes this model's latents and noise levels."""
        return classifiers.of_noised_latents(
            _a_name(path, "classifier"), self.latent_shape, self.system.schedule
        )

    def weaker(self, path: str) -> tuple[UNet, PyTree]:
        """See weaker.version_of."""
        return weaker.version_of(self.system, _a_name(path, "model"))

    def labels(self, given: Any, known: Sequence[str], name: str) -> np.ndarray:
        """[N] int32, the number of a label among `known` for each picture. given: one, by its name or number, or one
        for each. Raises: ValueError for an unknown one; name: the option's, in the message."""
        many = (
            list(given)
            if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
            else [given]
        )
        if len(many) not in (1, self.num_pictures):
            raise ValueError(
                f"{name}: got {len(many)}, expected one, or one for each of {self.num_pictures} pictures"
            )
        for one in many:
            is_number = (
                isinstance(one, int | np.integer) and not isinstance(one, bool) and 0 <= one < len(known)
            )
            if not is_number and one not in known:
                raise ValueError(
                    f"{name}: {one!r} not found; there are: {', '.join(known)}, or their numbers from 0"
                    f"{did_you_mean(one, known)}"
                )
        numbers = [known.index(one) if isinstance(one, str) else one for one in many]
        return np.broadcast_to(np.asarray(numbers, np.int32), (self.num_pictures,))

    def conditions(self, prompts: Any, name: str) -> list[list[str]]:
        """The prompts of K further conditions, N each. prompts: one, or a list of K, each a prompt for all pictures or
        a list of one for each. Raises: ValueError for anything else; name: the option's, in the message."""
        listed = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(listed, Sequence) or not listed:
            raise ValueError(f"{name}: got {prompts!r}, expected a prompt, or a list of them")
        return [_one_each(one, self, name) for one in listed]

    def text_tokens(self, prompt: str) -> np.ndarray:
        """[L] bool: which tokens stand for characters of the prompt, and not for its begin, its end or padding."""
        return np.asarray([end > start for start, end in tokens.encode(self.tokenizer, prompt)[1]])

    def clauses(self, prompt: str) -> list[phrases.Clause]:
        """See conditioning.phrases.clauses."""
        return phrases.clauses(prompt)


class Method(NamedTuple):
    """A method in a recipe. static: its compiled-in options, sorted."""

    room: str
    name: str
    static: tuple[tuple[str, Any], ...] = ()

    @property
    def module(self):
        return find(self.room, self.name)

    def build(self, *before: Any, **arrays) -> Any:
        """guide(*before, …) or edit(*before, …) with the static options and these arrays."""
        return self._call(MAKES[self.room], *before, **arrays)

    def recondition(self, denoiser: Denoiser, **arrays) -> Denoiser:
        """recondition(denoiser, …) likewise; the denoiser itself if the method has none."""
        return (
            self._call("recondition", denoiser, **arrays) if hasattr(self.module, "recondition") else denoiser
        )

    def _call(self, function: str, *before: Any, **arrays) -> Any:
        takes = inspect.signature(getattr(self.module, function)).parameters
        options = {name: value for name, value in (dict(self.static) | arrays).items() if name in takes}
        return getattr(self.module, function)(*before, **options)


class Choice(NamedTuple):
    """The result of `choose`. methods: for the recipe. shared: arrays of each method that all pictures share. each:
    arrays of each method with one entry per picture, [N, ...]. branches: prompts of the source branches, which come
    before the pictures that are drawn; a list of N for each branch. conditions: the prompts of each method's further
    conditions, by option: K lists of N."""

    methods: tuple[Method, ...] = ()
    shared: tuple[dict[str, np.ndarray], ...] = ()
    each: tuple[dict[str, np.ndarray], ...] = ()
    branches: tuple[list[str], ...] = ()
    branch_names: tuple[str, ...] = ()
    conditions: tuple[dict[str, list[list[str]]], ...] = ()

    def with_first(self, method: Method, shared: dict[str, np.ndarray]) -> "Choice":
        """The choice with one more method before all others."""
        return self._replace(
            methods=(method, *self.methods),
            shared=(shared, *self.shared),
            each=({}, *self.each),
            conditions=({}, *self.conditions),
        )


def choose(guidance: Asked, edit: Asked, call: Call) -> Choice:
    """guidance, edit: a name, {name: {option: value}}, or a list of these and of (name, options). The first method is
    the innermost, but for one that combines the conditional prediction with the unconditional: it calls the network
    itself, and the others stand around it whatever their order.

    Raises: ValueError for an unknown method or option (listing the known ones and the nearest), for a method that the
    model does not support, and for two methods that cannot be combined.
    """
    methods, shared, each, conditions, branches, names, owner = [], [], [], [], (), (), None
    for room, asked in (("guidance", guidance), ("editing", edit)):
        for name, options in _listed(asked, room):
            module = find(room, name)
            options = _checked(room, name, module, options, call)
            if options is None:
                continue
            if sources := getattr(module, "BRANCHES", ()):
                _check_only_owner(owner, name)
                owner, names = name, tuple(sources)
                branches = tuple(_one_each(options.pop(s), call, f"{name}: {s}") for s in sources)
            if drawn := options.pop(getattr(module, "DRAWS", ""), None):
                if not sources:
                    _check_only_owner(owner, name)
                owner, names = name, (*names, *drawn)
                branches = (*branches, *(list(prompts) for prompts in drawn.values()))
            conditions.append({k: options.pop(k) for k in getattr(module, "CONDITIONS", ()) if k in options})
            static, arrays = _split(module, room, options)
            own = getattr(module, "EACH", ())
            if any(method.name == name for method in methods) and room == "guidance":
                raise ValueError(f"guidance: got {name} twice, expected it once")
            _check_one_each(name, {k: arrays[k] for k in own if k in arrays}, call)
            methods.append(Method(room, name, static))
            shared.append({k: v for k, v in arrays.items() if k not in own})
            each.append({k: v for k, v in arrays.items() if k in own})
    _check_replacing(methods)
    order = sorted(range(len(methods)), key=lambda i: not replaces_guidance([methods[i]]))
    methods, shared, each, conditions = (
        tuple(values[i] for i in order) for values in (methods, shared, each, conditions)
    )
    return Choice(methods, shared, each, branches, names, conditions)


def choose_inversion(
    name: str, options: dict[str, Any], call: Call
) -> tuple[Method, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(the method, its arrays that all pictures share, those with one entry per picture).

    Raises: ValueError as `choose`.
    """
    module = find("inversion", name)
    static, arrays = _split(module, "inversion", _checked("inversion", name, module, options, call) or {})
    own = getattr(module, "EACH", ())
    each = {k: v for k, v in arrays.items() if k in own}
    return Method("inversion", name, static), {k: v for k, v in arrays.items() if k not in own}, each


def options_of(room: str, name: str) -> dict[str, inspect.Parameter]:
    """The options of a method that a user can set: those of its `prepare` or, without one, of `guide` or `edit`."""
    module = find(room, name)
    made = inspect.signature(getattr(module, "prepare", getattr(module, MAKES[room]))).parameters.values()
    return {p.name: p for p in made if p.kind is p.KEYWORD_ONLY and not p.name.endswith("_fn")}


def at_strength(room: str, name: str, options: Mapping[str, Any], strength: float) -> dict[str, Any]:
    """The options of a method between its neutral setting, at strength 0, and those given, at 1.

    Raises: ValueError for a method that is not there, and an option that is no number.
    """
    known, found = options_of(room, name), dict(options)
    for option, neutral in getattr(find(room, name), "NEUTRAL", {}).items():
        given = options.get(option, known[option].default)
        if not isinstance(neutral, float):
            continue
        if not _is_number(given):
            raise ValueError(f"{name}: {option} is {given!r}, expected a finite number")
        found[option] = neutral + strength * (given - neutral)
    return found


def needs(methods: Sequence[Method], what: str) -> bool:
    """Whether one of the methods needs this field of the Denoiser, such as 'uncond'."""
    return any(what in getattr(method.module, "NEEDS", ()) for method in methods)


def replaces_guidance(methods: Sequence[Method]) -> bool:
    """Whether one of the methods replaces classifier-free guidance with a single scale."""
    return any(getattr(method.module, "REPLACES_CLASSIFIER_FREE", False) for method in methods)


def differentiates(methods: Sequence[Method]) -> bool:
    """Whether one of the methods asks for gradients through the network."""
    return any(getattr(method.module, "GRADIENTS", False) for method in methods)


def touches_network(methods: Sequence[Method]) -> bool:
    """Whether one of the methods passes a Control to the network."""
    return any(getattr(method.module, "CONTROLS", False) for method in methods)


def reconditioned(
    denoiser: Denoiser, methods: Sequence[Method], arrays: Sequence[Mapping[str, PyTree]]
) -> Denoiser:
    """The denoiser with what the methods tell the network in the place of its own conditions, in order."""
    for method, values in zip(methods, arrays, strict=True):
        denoiser = method.recondition(denoiser, **values)
    return denoiser


def guided(denoiser: Denoiser, methods: Sequence[Method], arrays: Sequence[Mapping[str, PyTree]]) -> EpsFn:
    """The network under its condition, with the guidance methods around it, the first innermost."""
    eps_fn = denoiser.conditional
    for method, values in zip(methods, arrays, strict=True):
        if hasattr(method.module, "guide"):  # an edit may act on the prediction as well
            eps_fn = method._call("guide", eps_fn, denoiser, **values)
    return eps_fn


def conditioned(
    methods: Sequence[Method], arrays: Sequence[Mapping[str, PyTree]], condition: Callable[[PyTree], Cond]
) -> list[dict[str, PyTree]]:
    """arrays, with the inputs of each method's further conditions turned into the Conds that it takes."""
    out = []
    for method, values in zip(methods, arrays, strict=True):
        further = [k for k in getattr(method.module, "CONDITIONS", ()) if k in values]
        out.append({**values, **{k: tuple(condition(one) for one in values[k]) for k in further}})
    return out


def around(
    sampler: Sampler, denoiser: Denoiser, methods: Sequence[Method], arrays: Sequence[Mapping[str, PyTree]]
) -> Sampler:
    """The sampler, with what guidance methods do around its step, the first innermost."""
    for method, values in zip(methods, arrays, strict=True):
        if method.room == "guidance" and hasattr(method.module, "around"):
            sampler = method.module.around(sampler, denoiser, **dict(method.static), **values)
    return sampler


def edits(
    denoiser: Denoiser,
    methods: Sequence[Method],
    arrays: Sequence[Mapping[str, PyTree]],
    more: Sequence[Edit],
    first: Sequence[Edit] = (),
) -> Edit:
    """The editing methods as one Edit, `first` before them and `more` after them."""
    made = [
        m.build(denoiser, **values) for m, values in zip(methods, arrays, strict=True) if m.room == "editing"
    ]
    return chain_edits([*first, *made, *more])


def _listed(asked: Asked, room: str) -> list[tuple[str, dict]]:
    if asked is None:
        return []
    if isinstance(asked, str):
        return [(name.strip(), {}) for name in asked.split(",")]
    if isinstance(asked, Mapping):
        for name, options in asked.items():
            if not isinstance(options, Mapping | None):
                raise ValueError(f"{room}: got {options!r} for {name}, expected {{option: value}}")
        return [(name, dict(options or {})) for name, options in asked.items()]
    if not isinstance(asked, Sequence):
        raise _not_a_choice(asked, room)
    listed = []
    for one in asked:
        if isinstance(one, str | Mapping):
            listed += _listed(one, room)
        elif isinstance(one, Sequence) and len(one) == 2 and isinstance(one[0], str):
            listed += _listed({one[0]: one[1]}, room)
        else:
            raise _not_a_choice(asked, room)
    return listed


def _not_a_choice(asked: Any, room: str) -> ValueError:
    return ValueError(
        f"{room}: got {asked!r}, expected a name, {{name: {{option: value}}}}, or a list of names"
    )


def _checked(room: str, name: str, module: Any, options: dict, call: Call) -> dict | None:
    """Turns a user's options into those of `guide` or `edit`; None if they are neutral."""
    branches = getattr(module, "BRANCHES", ())
    known = {option: p for option, p in options_of(room, name).items() if option not in branches}
    for option in options:
        if option not in (*known, *branches):
            there = ", ".join([*branches, *known]) or "none"
            raise ValueError(f"{name} has no option {option!r}; it has: {there}{did_you_mean(option, known)}")
    missing = [
        o for o in (*branches, *(k for k, p in known.items() if p.default is p.empty)) if o not in options
    ]
    if missing:
        raise ValueError(
            f"{name}: {missing[0]} is missing, expected options {', '.join([*branches, *known])}"
        )
    each = getattr(module, "EACH", ())
    for option, value in options.items():
        is_one = option in known and isinstance(known[option].default, float) and option not in each
        if is_one and not _is_number(value):
            raise ValueError(f"{name}: {option} is {value!r}, expected a finite number")
    optional = [o for o, p in known.items() if p.default is None and o not in options]
    told = [o for o in getattr(module, "CONDITIONS", ()) if o not in optional]
    if (branches or told) and call.prompts is None:
        raise ValueError(f"{name} works on prompts, and this model takes none")
    prepare: Callable | None = getattr(module, "prepare", None)
    if prepare is None:
        return None if _is_neutral(module, options) else options
    sources = {option: _one_each(options[option], call, f"{name}: {option}") for option in branches}
    prepared = prepare(call, **sources, **{k: v for k, v in options.items() if k not in sources})
    return None if prepared is None else sources | prepared


def _check_only_owner(owner: str | None, name: str) -> None:
    if owner is not None:
        raise ValueError(
            f"{owner} and {name} cannot be combined: each draws a branch of its own beside the picture"
        )


def _a_name(value: Any, what: str) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{what}: got {value!r}, expected a name or a path")
    return str(value)


def _is_number(value: Any) -> bool:
    """Whether value is one number, and finite."""
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in "fiu" and bool(np.isfinite(array))


def _check_one_each(name: str, arrays: Mapping[str, np.ndarray], call: Call) -> None:
    for option, tree in arrays.items():
        for array in jax.tree.leaves(tree):
            if np.shape(array)[:1] != (call.num_pictures,):
                raise ValueError(
                    f"{name}: {option} has shape {np.shape(array)}, expected one entry for each of "
                    f"{call.num_pictures} pictures"
                )


def _is_neutral(module: Any, options: Mapping[str, Any]) -> bool:
    """Whether all the options that NEUTRAL names are given and neutral."""
    neutral = getattr(module, "NEUTRAL", None)
    return bool(neutral) and all(
        k in options and np.all(np.asarray(options[k]) == v) for k, v in neutral.items()
    )


def _split(module: Any, room: str, options: Mapping[str, Any]) -> tuple[tuple, dict[str, np.ndarray]]:
    """Splits the options of `guide` or `edit` into (static options, arrays): those annotated as Array are arrays, those
    annotated as PyTree trees of them."""
    functions = [getattr(module, name, None) for name in ("recondition", MAKES[room])]
    signature = {n: p for f in functions if f is not None for n, p in inspect.signature(f).parameters.items()}
    defaults = {
        n: p.default
        for n, p in signature.items()
        if "Array" in str(p.annotation) and p.default is not p.empty
    }
    static, arrays, own = {}, {}, getattr(module, "EACH", ())
    for name, value in {**defaults, **options}.items():  # the same structure with and without defaults
        if signature[name].annotation is PyTree:
            arrays[name] = jax.tree.map(np.asarray, value)
            continue
        if "Array" not in str(signature[name].annotation):
            static[name] = value
            continue
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" or not np.all(np.isfinite(array)):
            raise ValueError(
                f"{module.__name__.rpartition('.')[2]}: {name} is {value!r}, expected finite numbers"
            )
        if isinstance(signature[name].default, float) and array.ndim and name not in own:
            raise ValueError(
                f"{module.__name__.rpartition('.')[2]}: {name} has shape {array.shape}, expected a number"
            )
        arrays[name] = array.astype(np.float32) if array.dtype.kind == "f" or np.ndim(array) == 0 else array
    return tuple(sorted(static.items())), arrays


def _one_each(values: Any, call: Call, name: str) -> list[str]:
    values = (
        list(values)
        if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str)
        else [values]
    )
    if len(values) not in (1, call.num_pictures) or not all(isinstance(value, str) for value in values):
        raise ValueError(
            f"{name}: got {values!r}, expected one prompt, or one for each of {call.num_pictures} pictures"
        )
    return values * call.num_pictures if len(values) == 1 else values


def _check_replacing(methods: Sequence[Method]) -> None:
    replacing = [method.name for method in methods if replaces_guidance([method])]
    if len(replacing) > 1:
        raise ValueError(
            f"{replacing[0]} and {replacing[1]} cannot be combined: each stands in the place of "
            f"classifier-free guidance"
        )
