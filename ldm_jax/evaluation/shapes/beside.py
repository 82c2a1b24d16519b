"""Networks that stand beside the diffusion model, on held-out scenes: each by its own figure, with a baseline."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np

from ldm_jax.data import pipeline, transforms
from ldm_jax.data import shapes as scenes_source
from ldm_jax.evaluation import networks
from ldm_jax.evaluation.shapes.base import Outcome
from ldm_jax.evaluation.shapes.recognition import iou
from ldm_jax.metrics import features, zero_shot
from ldm_jax.metrics.average_precision import Boxes, average_precision
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.metrics.zero_shot import unit
from ldm_jax.models.sam import BOTTOM_RIGHT, INSIDE, NOTHING, TOP_LEFT
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world.oracle import RELATION_MIN, read_caption
from ldm_jax.shapes_world.scores import box_iou
from ldm_jax.training.beside import base
from ldm_jax.training.beside import caption_lm as lm_file
from ldm_jax.training.beside import clip as clip_file
from ldm_jax.training.beside import detr as detr_file
from ldm_jax.training.beside import dino as dino_file
from ldm_jax.training.beside import mae as mae_file
from ldm_jax.training.beside import sam as sam_file

MEMORY, NEIGHBORS = 2000, 10  # training scenes that features are looked up in; of them those that vote

OPTIONS = {"--network": dict(default="", help="beside: a folder that train_beside wrote")}

Scored = tuple[dict, list[np.ndarray]]


def score(args: argparse.Namespace) -> Outcome:
    """Detected boxes (detr), masks of prompts (sam), classes by captions (clip), features (mae, dino), and captions
    with layouts (caption_lm) on held-out scenes."""
    if not args.network:
        raise ValueError("--network is missing: a folder that ldm_jax.commands.train_beside wrote")
    folder = Path(args.network).expanduser()
    if (folder / "config.json").is_file() and not (folder / "network.json").is_file():
        figures, shown = released_clip(args.network, _examples(args.num_samples))
        return Outcome(figures | dict(num_samples=args.num_samples, network=args.network), {"clip": shown})
    trained = base.load(args.network)
    if trained.name not in SCORES:
        raise ValueError(f"--network {args.network!r} is a {trained.name}, expected {' or '.join(SCORES)}")
    figures, shown = SCORES[trained.name](trained, _held_out(trained, args.num_samples))
    about = dict(num_samples=args.num_samples, network=args.network, steps=trained.about.get("steps"))
    return Outcome(figures | about, {trained.name: shown})


def _held_out(trained: base.Trained, number: int) -> list[dict]:
    """Examples of the split 'test' of what it was trained on. Raises: ValueError for another network than detr that was
    trained on anything but scenes."""
    data = trained.about.get("data", "shapes")
    if data == "shapes":
        return _examples(number)
    if trained.name != "detr":
        raise ValueError(
            f"--network is a {trained.name} of {data}, expected one of shapes: scenes are what it is asked"
        )
    source = pipeline.open_source(data, **(trained.about["data_options"] | {"split": "test"}))
    size = trained.about["options"].get("image_size", world.SIZE)
    found = (source[i] for i in range(min(number, len(source))))
    return [example | {"image": base.picture(example, size)} for example in found]


def _examples(number: int, split: str = "test") -> list[dict]:
    source = scenes_source.source(split, num_scenes=number)
    return [source[i] for i in range(number)]


def detr(trained: base.Trained, examples: Sequence[dict]) -> Scored:
    """AP at the overlaps .5 and .75, the mean over the classes that are there, and how often a picture's boxes of a
    score above a half are as many as its objects. The baseline says the commonest class at the commonest places: the
    boxes of other scenes."""
    images = np.stack([example["image"] for example in examples])
    truth = boxes_of(examples)
    apply = partial(detr_file.found, trained.learner.network)
    found = [Boxes(*one) for one in zip(*base.apply_in_parts(apply, trained.params, images), strict=True)]
    elsewhere = [one._replace(scores=np.ones(len(one.labels))) for one in truth[1:] + truth[:1]]
    figures = {
        f"ap{round(100 * at)}": float(np.mean(list(average_precision(found, truth, at).values())))
        for at in (0.5, 0.75)
    }
    counted = [(one.scores > 0.5).sum() == len(right.labels) for one, right in zip(found, truth, strict=True)]
    baseline = float(np.mean(list(average_precision(elsewhere, truth).values())))
    figures |= dict(
        count_right=float(np.mean(counted)), baseline_ap50=baseline, objects=sum(len(t.labels) for t in truth)
    )
    drawn = [outlined(image, one.boxes[one.scores > 0.5]) for image, one in zip(images, found, strict=True)]
    return figures, [images, np.stack(drawn)]


def sam(trained: base.Trained, examples: Sequence[dict]) -> Scored:
    """Overlap of the mask of an object's box; the best of three masks of a point in it with the object, and with all
    objects; how far off the predicted overlap is. The baseline is the box itself."""
    rows = [
        (e["image"], e["instance_mask"] == i)
        for e in examples
        for i in range(1, e["instance_mask"].max() + 1)
    ]
    images, masks = (np.stack(part) for part in zip(*rows, strict=True))
    together = np.concatenate([[e["instance_mask"] > 0] * int(e["instance_mask"].max()) for e in examples])
    boxes = np.stack([sam_file.box_of(mask) for mask in masks])
    points = np.stack([[_inner(mask), (0, 0)] for mask in masks]).astype(np.float32)
    apply = partial(sam_file.refine, trained.learner.network)

    def said(where: np.ndarray, labels: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        kinds = np.tile(np.asarray(labels, np.int32), (len(images), 1))
        found = base.apply_in_parts(apply, trained.params, images, where, kinds)
        return _enlarged(found.logits, images.shape[1]) > 0, found.iou

    by_box, expected = said(boxes.reshape(-1, 2, 2), (TOP_LEFT, BOTTOM_RIGHT))
    by_point, _ = said(points, (INSIDE, NOTHING))
    reached = np.asarray([iou(a, b) for a, b in zip(by_box[:, 0], masks, strict=True)])
    best = [
        np.mean([max(iou(a, b) for a in three[1:]) for three, b in zip(by_point, meant, strict=True)])
        for meant in (masks, together)
    ]
    filled = [_filled(box, mask.shape) for box, mask in zip(boxes, masks, strict=True)]
    figures = dict(
        box_iou=float(reached.mean()), point_iou=float(best[0]), point_iou_of_all=float(best[1]),
        iou_off=float(abs(expected[:, 0] - reached).mean()), objects=len(masks),
        baseline=float(np.mean([iou(a, b) for a, b in zip(filled, masks, strict=True)])),
    )  # fmt: skip
    return figures, [images, *(_gray(part) for part in (masks, by_box[:, 0], by_point[:, 1]))]


def _inner(mask: np.ndarray) -> np.ndarray:
    """(x, y) of the pixel of a mask that is nearest to its middle."""
    ys, xs = np.nonzero(mask)
    nearest = (np.square(ys - ys.mean()) + np.square(xs - xs.mean())).argmin()
    return np.asarray([xs[nearest], ys[nearest]])


def _filled(box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    x0, y0, x1, y1 = box.astype(int)
    out = np.zeros(shape, bool)
    out[y0 : y1 + 1, x0 : x1 + 1] = True
    return out


def _enlarged(logits: np.ndarray, side: int) -> np.ndarray:
    """[N, M, h, w] -> [N, M, side, side], bilinear."""
    if logits.shape[-1] == side:
        return logits
    return np.asarray(jax.image.resize(logits, (*logits.shape[:2], side, side), "bilinear"))


def _gray(masks: np.ndarray) -> np.ndarray:
    """[N, H, W] bool -> [N, H, W, 3] uint8."""
    return np.repeat(masks[..., None], 3, axis=-1) * np.uint8(255)


def boxes_of(examples: Sequence[dict]) -> list[Boxes]:
    """The true boxes, (x0, y0, x1, y1) relative to the sides, of examples of a source."""
    return [Boxes(np.asarray(e["boxes"])[:, [1, 0, 3, 2]], np.asarray(e["labels"])) for e in examples]


def outlined(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """A copy of an image [H, W, 3] uint8 with the outlines of boxes [n, 4], relative to its sides."""
    out, sides = image.copy(), np.asarray([*image.shape[1::-1]] * 2)
    for x0, y0, x1, y1 in np.clip(np.rint(boxes * sides).astype(int), 0, sides - 1):
        out[[y0, y1], x0 : x1 + 1] = out[y0 : y1 + 1, [x0, x1]] = (255, 0, 255)
    return out


def clip(trained: base.Trained, examples: Sequence[dict]) -> Scored:
    """How often the nearest of 24 captions is that of a scene's only object, in held-out scenes and in those of
    attribute pairs that training never shows. The baseline is the commonest class."""
    network, params, options = trained.learner.network, trained.params, trained.about["options"]
    see = partial(base.apply_in_parts, partial(clip_file.embed_images, network), params)
    return by_captions(see, partial(clip_file.embed_captions, network, params, options), ("a {}",), examples)


def released_clip(folder: str, examples: Sequence[dict]) -> Scored:
    """The same of a folder of transformers' CLIPModel."""
    towers = networks.clip(folder)

    def see(images: np.ndarray) -> np.ndarray:
        found = features.extract(ArrayImages(images), towers.extractor, layers=("embedding",))
        return np.concatenate([values["embedding"] for _, values in found])

    return by_captions(see, towers.embed, zero_shot.TEMPLATES, examples)


def by_captions(see: Callable, embed: Callable, templates: Sequence[str], examples: Sequence[dict]) -> Scored:
    classes = zero_shot.class_embeddings(world.CLASS_NAMES, embed, templates)
    figures, shown = {}, []
    for name, (images, labels) in dict(
        test=single(examples), unseen=single(_examples(len(examples), "unseen"))
    ).items():
        found, _ = zero_shot.classify(see(images), classes)
        figures |= {f"{name}_right": float((found == labels).mean()), f"{name}_scenes": len(labels)}
        figures[f"{name}_baseline"] = float(np.bincount(labels).max() / len(labels))
        shown.append(images)
    return figures, shown[:1]


def mae(trained: base.Trained, examples: Sequence[dict]) -> Scored:
    """PSNR of the patches that are filled in, beside that of the mean of those that are seen; and classes by the
    nearest neighbors of features."""
    network, params = trained.learner.network, trained.params
    images = np.stack([example["image"] for example in examples])
    length = (network.image_size // network.patch_size) ** 2
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((len(images), length)), axis=1)
    made, hidden = base.apply_in_parts(partial(mae_file.filled, network), params, images, order)
    truth = transforms.to_float(images)
    seen = np.ma.masked_array(truth, hidden).mean((1, 2), keepdims=True).filled(0)
    figures = dict(
        psnr_filled=_psnr(made, truth, hidden), baseline_psnr=_psnr(np.broadcast_to(seen, truth.shape), truth, hidden)
    )  # fmt: skip
    see = partial(base.apply_in_parts, partial(mae_file.features, network), params)
    figures |= by_neighbors(see, examples)
    covered = np.where(hidden, np.uint8(128), images)
    return figures, [images, covered, transforms.to_bytes(made)]


def dino(trained: base.Trained, examples: Sequence[dict]) -> Scored:
    """Classes of scenes of one object by the nearest neighbors of features. The baseline compares pixels."""
    apply = partial(dino_file.features, trained.learner.network)
    see = partial(base.apply_in_parts, apply, trained.params)
    return by_neighbors(see, examples), [single(examples)[0]]


def caption_lm(trained: base.Trained, examples: Sequence[dict]) -> Scored:
    """How many captions, said at temperature 1, are in the grammar; the perplexity of held-out captions with their
    layouts; how many relations of held-out captions the boxes said for them keep, and how many of these touch no other.
    The baseline gives each caption the boxes of another one with as many things."""
    network, params = trained.learner.network, trained.params
    speaker = lm_file.Speaker(network, params)
    good = [_is_caption(caption) for caption in lm_file.captions(speaker, len(examples))]
    source, rng = scenes_source.source("test", num_scenes=len(examples)), np.random.default_rng(0)
    told = [
        example | dict(zip(("caption", "phrases"), source.described(i), strict=True))
        for i, example in enumerate(examples)
    ]
    tokens = np.stack([trained.learner.example(example, rng)["tokens"] for example in told])
    nats, there = base.apply_in_parts(partial(lm_file.next_word_loss, network), params, tokens)
    prompts = [example["caption"] for example in told]
    boxes = [
        np.asarray([thing["box"] for thing in layout["objects"]])
        for layout in lm_file.layouts(speaker, prompts)
    ]
    order = sorted(range(len(boxes)), key=lambda i: (len(boxes[i]), i))
    others = dict(zip(order, order[1:] + order[:1], strict=True))
    figures = dict(captions_right=float(np.mean(good)), perplexity=float(np.exp(nats.sum() / there.sum())))
    for name, which in (("", range(len(boxes))), ("baseline_", [others[i] for i in range(len(boxes))])):
        kept = [k for prompt, i in zip(prompts, which, strict=True) for k in relations_kept(prompt, boxes[i])]
        figures |= {f"{name}relations": float(np.mean(kept)) if kept else None, "relations_asked": len(kept)}
    overlap = [np.triu(box_iou(_ends(some), _ends(some)), 1).max() for some in boxes]
    figures |= dict(apart=float(np.mean(np.asarray(overlap) == 0)))
    images = np.stack([example["image"] for example in examples])
    drawn = [
        outlined(np.full_like(image, 245), _ends(some)) for image, some in zip(images, boxes, strict=True)
    ]
    return figures, [images, np.stack(drawn)]


def relations_kept(prompt: str, boxes: np.ndarray) -> list[bool]:
    """Of each relation that a prompt states whether the middles of its first phrase's boxes [n, 4] (x0, y0, w, h) lie
    in its direction from those of its second, by RELATION_MIN pixels of a picture of the shapes world."""
    phrases, relations = read_caption(prompt)
    ends = np.cumsum([0, *(phrase.number for phrase in phrases)])
    if len(boxes) < ends[-1]:
        return [False] * len(relations)
    middles = (boxes[:, :2] + boxes[:, 2:] / 2) * world.SIZE
    kept = []
    for first, name, second in relations:
        a, b = (middles[ends[i] : ends[i + 1]] for i in (first, second))
        apart = ((a[:, None] - b[None]) @ np.asarray(world.RELATIONS[name])).min()
        kept.append(bool(apart >= RELATION_MIN))
    return kept


def _is_caption(caption: str) -> bool:
    try:
        read_caption(caption)
    except ValueError:
        return False
    return caption.count(",") <= 1


def _ends(boxes: np.ndarray) -> np.ndarray:
    """(x0, y0, w, h) -> (x0, y0, x1, y1)."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def by_neighbors(see: Callable, examples: Sequence[dict]) -> dict[str, float]:
    """How often the classes of 10 neighbors in MEMORY training scenes of one object, weighted by exp(cosine / .07), say
    the class of a held-out one; and the same of pixels. Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4."""
    known, labels = single(_examples(MEMORY, "train"))
    images, truth = single(examples)
    out = {}
    for name, of in (("knn_right", see), ("knn_baseline", _as_rows)):
        memory, asked = (unit(of(part)) for part in (known, images))
        near = asked @ memory.T
        first = np.argsort(-near, axis=1)[:, :NEIGHBORS]
        votes = np.zeros((len(asked), len(world.CLASS_NAMES)))
        weights = np.exp(np.take_along_axis(near, first, 1) / 0.07)
        np.add.at(votes, (np.arange(len(asked))[:, None], labels[first]), weights)
        out[name] = float((votes.argmax(1) == truth).mean())
    return out | dict(knn_scenes=len(truth), knn_memory=len(labels))


def single(examples: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and classes of those that have one object. Raises: ValueError if none has."""
    found = [
        (example["image"], example["class_label"]) for example in examples if len(example["labels"]) == 1
    ]
    if not found:
        raise ValueError(f"{len(examples)} scenes and none of one object, expected --num_samples of more")
    return np.stack([image for image, _ in found]), np.asarray([label for _, label in found])


def _as_rows(images: np.ndarray) -> np.ndarray:
    return transforms.to_float(images).reshape(len(images), -1)


def _psnr(made: np.ndarray, truth: np.ndarray, where: np.ndarray) -> float:
    """In dB, over the pixels in `where`, of pictures in [-1, 1]."""
    return float(10 * np.log10(4 / np.square(made - truth)[where].mean()))


SCORES: dict[str, Callable[[base.Trained, Sequence[dict]], Scored]] = {
    "detr": detr,
    "sam": sam,
    "clip": clip,
    "mae": mae,
    "dino": dino,
    "caption_lm": caption_lm,
}
