"""What universal guidance can ask of the predicted picture: losses of each picture, smaller the more it is what was asked for.

Decides what is compared with what. A loss is a NamedTuple of what is compiled in, called with images [B, H, W, 3] in about [-1, 1], the
target, arrays with an entry per picture, and fixed, arrays without; it gives [B] float32. `prepare` makes one of a user's options.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.find import did_you_mean
from ldm_jax.types import Array, PyTree


class Asked(NamedTuple):
    """A loss, hashable, with its target, arrays [N, ...], and what is fixed."""

    loss: Callable
    target: PyTree
    fixed: PyTree


def prepare(call, loss, target, options: Mapping[str, Any]) -> Asked:
    """loss: a name of LOSSES, or a function of images. target, options: what its function here takes.

    Raises: ValueError for another loss, an option that it does not have, and a target that is not of its kind.
    """
    if callable(loss):
        if options or target is not None:
            name = "target" if target is not None else next(iter(options))
            raise ValueError(f"universal: a function takes images alone, got the option {name!r}")
        return Asked(Function(loss), {}, {})
    if loss not in LOSSES:
        raise ValueError(
            f"universal: loss {loss!r} not found; there are: {', '.join(LOSSES)}, or a function{did_you_mean(loss, LOSSES)}"
        )
    if target is None:
        raise ValueError(f"universal: target is missing: what the loss {loss!r} compares with")
    known = [p.name for p in inspect.signature(LOSSES[loss]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ValueError(
                f"universal: loss {loss!r} has no option {option!r}; it has: {', '.join(known) or 'none'}"
            )
    missing = [
        p.name
        for p in inspect.signature(LOSSES[loss]).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in options
    ]
    if missing:
        raise ValueError(f"universal: loss {loss!r} needs the option {missing[0]!r}")
    return LOSSES[loss](call, target, **options)


# ------------------------------------------------------------------------------------------------------- any function


class Function(NamedTuple):
    """A user's function of images alone. Another function is another program."""

    function: Callable

    def __call__(self, images: Array, target: PyTree, fixed: PyTree) -> Array:
        value = self.function(images)
        if value.shape != images.shape[:1]:
            raise ValueError(
                f"universal: the function gave shape {value.shape}, expected one number for each picture, "
                f"{images.shape[:1]}"
            )
        return value


# ------------------------------------------------------------------------------------------------- a picture to be like


class Image(NamedTuple):
    """Half the sum of squares between a picture, made as small as the target by means over blocks, and the target."""

    def __call__(self, images: Array, target: PyTree, fixed: PyTree) -> Array:
        wanted = target["image"]
        b, h, w, c = wanted.shape
        factor = images.shape[1] // h
        small = images.reshape(b, h, factor, w, factor, c).mean((2, 4))
        return 0.5 * ((small - wanted) ** 2).sum((1, 2, 3))


def image(call, target) -> Asked:
    """target: a picture, or one for each: a file, or [h, w, 3] uint8 or in [-1, 1], whose sides divide the picture's
    (Rombach et al. 2022, appendix C: a low-resolution picture to be enlarged)."""
    wanted = one_each(call, target, call.picture, "universal: image: target")
    height, width = call.image_shape
    h, w = wanted.shape[1:3]
    if height % h or width % w or height // h != width // w:
        raise ValueError(
            f"universal: image: target is {h} x {w}, expected one that is a whole number of times smaller than "
            f"{height} x {width}"
        )
    return Asked(Image(), {"image": wanted}, {})


# ------------------------------------------------------------------------------------------- what a classifier says of it


class Class(NamedTuple):
    """-log of the probability that a classifier gives to a label, and that it does not give to another that is to go; its logits are each
    label's own odds."""

    network: Any
    leaves: bool = False

    def __call__(self, images: Array, target: PyTree, fixed: PyTree) -> Array:
        logits = self.logits(images, fixed)

        def of(name):
            return jnp.take_along_axis(logits, target[name][:, None], axis=1)[:, 0]

        return jax.nn.softplus(-of("label")) + (jax.nn.softplus(of("leave")) if self.leaves else 0.0)

    def logits(self, images: Array, params: PyTree) -> Array:
        """[B, labels] of images [B, H, W, 3]."""
        if hasattr(self.network, "apply"):
            return self.network.apply({"params": params}, images).logits
        return self.network(images)


def label(call, target, *, classifier="shapes_classifier", leave=None) -> Asked:
    """target: a label of the classifier, its name or its number, or one for each picture. classifier: of clean pictures, by its name, or a
    function of images [B, H, W, 3] in about [-1, 1] that gives the log odds of each label [B, labels], in jax. leave: a label that the
    picture is to lose, or one for each."""
    network, labels, params = classified(call, classifier)
    wanted = {"label": call.labels(target, labels, "universal: class: target")}
    if leave is not None:
        wanted["leave"] = call.labels(leave, labels, "universal: class: leave")
    return Asked(Class(network, leave is not None), wanted, params)


def classified(call, classifier) -> tuple[Any, tuple[str, ...], PyTree]:
    """(network or function, its labels, parameters). Raises: ValueError for what gives no odds of labels."""
    if not callable(classifier):
        found = call.classifier(classifier)
        if not found.labels:
            raise ValueError(
                f"classifier {classifier!r} has no labels, expected one that says what pictures show"
            )
        return found.network, found.labels, found.params
    given = jax.eval_shape(classifier, jax.ShapeDtypeStruct((1, *call.image_shape, 3), jnp.float32))
    if getattr(given, "ndim", 0) != 2 or given.shape[0] != 1:
        raise ValueError(
            f"classifier: the function gave shape {getattr(given, 'shape', None)} of one picture, expected (1, labels)"
        )
    return classifier, tuple(str(i) for i in range(given.shape[1])), {}


class Style(NamedTuple):
    """Squares between the Gram matrices of a network's feature maps (Gatys et al. 2016) of a picture and the target's."""

    network: Any
    layers: tuple[str, ...]

    def __call__(self, images: Array, target: PyTree, fixed: PyTree) -> Array:
        ours, theirs = (self.grams(x, fixed) for x in (images, target["image"]))
        return sum(((a - b) ** 2).sum((1, 2)) for a, b in zip(ours, theirs, strict=True))

    def grams(self, images: Array, params: PyTree) -> list[Array]:
        """[B, C, C] of each layer: products of channels, mean over places."""
        _, seen = self.network.apply(
            {"params": params}, images, capture_intermediates=lambda module, _: module.name in self.layers
        )
        found = [_places(seen["intermediates"][name]["__call__"][0]) for name in self.layers]
        return [jnp.einsum("bnc,bnd->bcd", m, m) / m.shape[1] for m in found]


def _places(features: Array) -> Array:
    """[B, N, C]: feature maps [B, h, w, C] where they are above 0; of a transformer's tokens [B, 1 + N, C] those of patches."""
    if features.ndim == 3:
        return features[:, 1:]
    return jax.nn.relu(features).reshape(features.shape[0], -1, features.shape[-1])


STYLE_LAYERS = ("norm_0", "norm_1", "norm_2")  # of the shapes world's classifier
CLIP_STYLE_LAYERS = ("layer_2",)  # Bansal et al. 2023: the features after CLIP's third block


def style(call, target, *, classifier="shapes_classifier", layers=None) -> Asked:
    """target: a picture of the size that is drawn, or one for each. classifier: of clean pictures, or a folder of CLIP. layers: of it, by
    their names there."""
    found, wanted = (
        call.classifier(classifier),
        one_each(call, target, call.picture, "universal: style: target"),
    )
    layers = layers or (STYLE_LAYERS if found.labels else CLIP_STYLE_LAYERS)
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    for layer in layers:
        if layer not in found.params:
            raise ValueError(
                f"universal: style: layer {layer!r} not found; there are: {', '.join(found.params)}"
                f"{did_you_mean(layer, found.params)}"
            )
    if wanted.shape[1:3] != tuple(call.image_shape):
        raise ValueError(
            f"universal: style: target is {wanted.shape[1]} x {wanted.shape[2]}, expected "
            f"{call.image_shape[0]} x {call.image_shape[1]}, the size that is drawn"
        )
    return Asked(Style(found.network, layers), {"image": wanted}, found.params)


# ------------------------------------------------------------------------------------------------ what lies where, by color


def soft_maps(images: Array, palette: Array, temperature: Array) -> Array:
    """log probabilities [B, H, W, K] of each pixel to be of each color of palette [K, 3], by its distance to them."""
    squares = ((images[..., None, :] - palette) ** 2).sum(-1)
    return jax.nn.log_softmax(-squares / temperature, axis=-1)


class Segmentation(NamedTuple):
    """Cross-entropy of the soft maps of colors with a map of labels, mean over pixels of each label, summed over labels there."""

    def __call__(self, images: Array, target: PyTree, fixed: PyTree) -> Array:
        maps = soft_maps(images, fixed["palette"], fixed["temperature"])
        wanted = jax.nn.one_hot(target["map"], maps.shape[-1])  # [B, H, W, K]
        area = wanted.sum((1, 2))
        return -((wanted * maps).sum((1, 2)) / jnp.maximum(area, 1.0)).sum(-1)


def segmentation(call, target, *, palette, temperature: float = 0.1) -> Asked:
    """target: a map [H, W] of numbers of colors, or one for each picture. palette: K colors, RGB in 0..255. temperature: of the distances
    between colors, in units of [-1, 1]."""
    fixed = _palette(palette, temperature)
    wanted = one_each(call, target, np.asarray, "universal: segmentation: target", ndim=2)
    number = len(fixed["palette"])
    if wanted.shape[1:] != tuple(call.image_shape) or wanted.dtype.kind not in "iu":
        raise ValueError(
            f"universal: segmentation: target is {wanted.dtype} of shape {wanted.shape[1:]}, expected whole numbers of "
            f"shape {tuple(call.image_shape)}"
        )
    if wanted.min() < 0 or wanted.max() >= number:
        raise ValueError(
            f"universal: segmentation: target has the number {wanted.max()}, expected 0 to {number - 1}, those of palette"
        )
    return Asked(Segmentation(), {"map": wanted.astype(np.int32)}, fixed)


def boxes(call, target, *, palette, background, temperature: float = 0.1) -> Asked:
    """target: boxes [{"box": [x0, y0, width, height], "color": number}, …], relative to the picture, or such a list for each picture. A
    box asks for its color in the ellipse that it holds, and for the colors `background` (numbers of palette) outside of all boxes;
    in between both are well. palette, temperature: as of `segmentation`."""
    fixed = _palette(palette, temperature)
    listed = list(target) if isinstance(target, Sequence) else [target]
    each = listed if listed and isinstance(listed[0], Sequence) else [listed]
    if len(each) not in (1, call.num_pictures):
        raise ValueError(
            f"universal: boxes: got {len(each)} lists, expected one, or {call.num_pictures}, one for each picture"
        )
    number = len(fixed["palette"])
    behind = np.zeros(number, np.float32)
    behind[_numbers(background, number, "background")] = 1
    wanted = [_ellipses(one, call.image_shape, number) for one in each] * (call.num_pictures // len(each))
    return Asked(Boxes(), {"inside": np.stack([w for w, _ in wanted]), "outside": np.stack([w for _, w in wanted])},
                 dict(fixed, background=behind))  # fmt: skip


class Boxes(NamedTuple):
    """Cross-entropy of the soft maps of colors in the ellipses of boxes, and of the background's outside of all boxes: the mean of each."""

    def __call__(self, images: Array, target: PyTree, fixed: PyTree) -> Array:
        maps = soft_maps(images, fixed["palette"], fixed["temperature"])
        inside, outside = (
            target["inside"],
            target["outside"],
        )  # [B, H, W, K] and [B, H, W], weights that sum to 1
        behind = jax.nn.logsumexp(maps, axis=-1, b=fixed["background"])
        return -(inside * maps).sum((1, 2, 3)) - (outside * behind).sum((1, 2))


def _ellipses(listed, image_shape: tuple[int, int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """(weights of each color inside of boxes [H, W, K], weights outside of all boxes [H, W]), float32."""
    height, width = image_shape
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    inside, outside = np.zeros((height, width, number), np.float32), np.ones((height, width), np.float32)
    for one in listed:
        if not isinstance(one, Mapping) or set(one) != {"box", "color"}:
            raise ValueError(
                f"universal: boxes: got {one!r}, expected {{'box': [x0, y0, width, height], 'color': number}}"
            )
        box = _floats(one["box"])
        if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= 0).any():
            raise ValueError(
                f"universal: boxes: box is {one['box']!r}, expected x0, y0, width, height within the picture"
            )
        (color,) = _numbers([one["color"]], number, "color")
        x0, y0, w, h = box
        ellipse = ((x - x0 - w / 2) / (w / 2)) ** 2 + ((y - y0 - h / 2) / (h / 2)) ** 2 <= 1
        if not ellipse.any():
            raise ValueError(
                f"universal: boxes: box {one['box']!r} covers no pixel, expected x0, y0, width, height from 0 to 1"
            )
        inside[..., color] += ellipse / ellipse.sum()
        outside[(x >= x0) & (x < x0 + w) & (y >= y0) & (y < y0 + h)] = 0
    return inside, outside / max(outside.sum(), 1)


def _palette(palette, temperature) -> dict[str, np.ndarray]:
    colors = _floats(palette)
    if colors.ndim != 2 or colors.shape[1] != 3 or not ((colors >= 0) & (colors <= 255)).all():
        raise ValueError(
            f"universal: palette is {palette!r}, expected colors, three numbers from 0 to 255 each"
        )
    warmth = _floats(temperature)
    if warmth.ndim or not warmth > 0:
        raise ValueError(f"universal: temperature is {temperature!r}, expected a number above 0")
    return {"palette": colors / 127.5 - 1, "temperature": warmth}


def _floats(given) -> np.ndarray:
    """given as float32, NaN where it is no numbers."""
    try:
        return np.asarray(given, np.float32)
    except (TypeError, ValueError):
        return np.full((), np.nan, np.float32)


def _numbers(given, number: int, name: str) -> list[int]:
    numbers = [given] if isinstance(given, int) else list(given)
    for one in numbers:
        if isinstance(one, bool) or not isinstance(one, int | np.integer) or not 0 <= one < number:
            raise ValueError(
                f"universal: {name} is {one!r}, expected the number of a color, 0 to {number - 1}"
            )
    return numbers


def one_each(call, target, read: Callable, name: str, ndim: int = 3) -> np.ndarray:
    """[N, ...]: target read, one for all pictures or one for each. name: the option's, in messages."""
    many = isinstance(target, list | tuple) or np.ndim(target) == ndim + 1
    found = [read(one) for one in target] if many else [read(target)]
    if len(found) not in (1, call.num_pictures) or any(np.ndim(one) != ndim for one in found):
        shapes = ", ".join(str(np.shape(one)) for one in found)
        raise ValueError(
            f"{name}: got {len(found)} of shape {shapes}, expected one, or one for each of {call.num_pictures} pictures"
        )
    if len({one.shape for one in found}) > 1:
        raise ValueError(f"{name}: got several sizes, expected one")
    return np.stack(found * (call.num_pictures // len(found)))


def whole(value, name: str, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`, None: any. Raises: ValueError for anything else; name: the option's, in the message."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}, expected a whole number {bounds}")
    return int(value)


LOSSES = {"image": image, "class": label, "style": style, "segmentation": segmentation, "boxes": boxes}
