"""The tasks of `ldm-evaluate TASK`: a model is told what held-out scenes of the shapes world hold, draws, and is
scored.

Decides what each task tells a model and which figures it prints. Knows the command's arguments and
LatentDiffusion.sample; what counts as right is shapes_world/prompts.py's and shapes_world/scores.py's to say.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ldm_jax import cli, grid
from ldm_jax.checkpoints import open as checkpoints
from ldm_jax.data import masks, pictures, transforms
from ldm_jax.data import shapes as shapes_source
from ldm_jax.data.pictures import EXTENSIONS
from ldm_jax.evaluation import networks as measuring
from ldm_jax.evaluation import samples as measure_command
from ldm_jax.inference import pipeline
from ldm_jax.metrics import features
from ldm_jax.metrics.fid import fid
from ldm_jax.metrics.images import ArrayImages
from ldm_jax.metrics.psnr import psnr
from ldm_jax.metrics.ssim import ssim
from ldm_jax.shapes_world import prompts as shapes
from ldm_jax.shapes_world import scenes as world
from ldm_jax.shapes_world import scores

FIRST_SEED = (
    1_000_000  # seeds count up from it, as in shapes_world/prompts.py: training's previews take the low ones
)
SHOWN = 16  # pictures of a grid
STRENGTHS = (0.25, 0.5, 0.75)


class Outcome(NamedTuple):
    """figures: what the last line says. shown: pictures by the name of their grid, the columns of it, [N, H, W, 3]
    uint8 each."""

    figures: dict[str, Any]
    shown: dict[str, list[np.ndarray]]


class Model:
    """The model of --checkpoint, told and drawn from as the arguments say.

    Raises: ValueError where it was trained at another size than the scenes have, unless any_size.
    """

    def __init__(self, args: argparse.Namespace, any_size: bool = False):
        self.args = args
        self.model = pipeline.load(args.checkpoint, **checkpoints.options_from(args)._asdict())
        self.system = self.model.system
        if self.system.image_size != world.SIZE and not any_size:
            side = self.system.image_size
            raise ValueError(
                f"--checkpoint {args.checkpoint!r} draws pictures of {side} x {side}, expected {world.SIZE} "
                f"x {world.SIZE} "
                "as the scenes of the shapes world have"
            )

    def check_takes(self, *names: str) -> None:
        """Raises: ValueError for a model that does not take these conditions, or insists on others."""
        needed = [name for name in self.system.takes if name not in self.system.optional]
        if not set(names) <= set(self.system.takes) or not set(needed) <= set(names):
            raise ValueError(
                f"--checkpoint {self.args.checkpoint!r} takes "
                f"{', '.join(self.system.takes) or 'no conditions'}, and task "
                f"{self.args.task!r} is for a model that takes {' and '.join(names) or 'none'}"
            )

    def draw(self, label: str, number: int, **given) -> np.ndarray:
        """`number` pictures [N, H, W, 3] uint8. given: of LatentDiffusion.sample, a value for each picture."""
        args, report = self.args, cli.progress(label, number)
        return self.model.sample(
            seeds=[FIRST_SEED + i for i in range(number)], num_steps=args.steps, sampler=args.sampler,
            guidance_scale=args.guidance_scale, batch_size=args.batch_size, progress=lambda done, _: report(done),
            **given,
        )  # fmt: skip

    def told(self, scenes: Sequence[world.Scene]) -> dict[str, list]:
        """What says what the scenes hold, of the conditions that the model insists on: prompts or class labels.

        Raises: ValueError for a model that insists on others.
        """
        known = {"prompts": world.caption, "class_labels": _main_class}
        needed = [name for name in self.system.takes if name not in self.system.optional]
        self.check_takes(*(name for name in needed if name in known))
        return {name: [known[name](scene) for scene in scenes] for name in needed}

    def settings(self) -> dict[str, Any]:
        """What every task that draws says of itself."""
        args = self.args
        return dict(
            num_samples=args.num_samples, steps=args.steps, sampler=args.sampler, checkpoint=args.checkpoint
        )


def _main_class(scene: world.Scene) -> int:
    return world.class_label(max(scene.objects, key=lambda o: o.r))


def _scenes(number: int, first: int = 0) -> tuple[list[world.Scene], np.ndarray]:
    """Held-out scenes and their pictures [N, 64, 64, 3] uint8."""
    scenes = [world.scene(first + i, "test") for i in range(number)]
    return scenes, np.stack([world.render(scene) for scene in scenes])


def mean_finite(values: np.ndarray) -> float | None:
    """The mean of a figure that is infinite where pictures agree, over the others; None where all do."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


# ------------------------------------------------------------------------------------- text, first stage, and the
# oracle


def text(args: argparse.Namespace) -> Outcome:
    """How often the text model draws what it is told, by kind of prompt, and the Fréchet distance of what it draws."""
    model = Model(args)
    model.check_takes("prompts")
    total = max(1, args.num_samples // len(shapes.KINDS)) * len(shapes.KINDS)
    report, drawn = cli.progress("pictures", total), []

    def draw(prompts, seeds):
        before = sum(map(len, drawn))
        images = model.model.sample(
            prompts, seeds, num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler,
            batch_size=args.batch_size, progress=lambda done, _: report(before + done),
        )  # fmt: skip
        drawn.append(images)
        return images

    found = shapes.accuracies(draw, args.num_samples, first_seed=FIRST_SEED)
    images = np.concatenate(drawn)
    figures = found | _shapes_fid(images) | model.settings() | dict(num_samples=total)
    return Outcome(figures, {"shapes": [images[:: max(1, total // SHOWN)]]})


def _shapes_fid(images: np.ndarray) -> dict:
    """{'shapes_fid': …} of pictures of all kinds of prompt; None where they are too few for it."""
    reference = measuring.shapes_reference().gaussians["pool"]
    if len(images) <= len(reference.mean):
        return {"shapes_fid": None}
    found = features.collect(ArrayImages(images), measuring.shapes())
    return {"shapes_fid": fid(found.moments["pool"].gaussian(), reference)}


def first_stage(args: argparse.Namespace) -> Outcome:
    """What the autoencoder loses of rendered scenes: PSNR, and how many the oracle still reads right."""
    opened = checkpoints.open_checkpoint(args.checkpoint, checkpoints.options_from(args)).bundle()
    _, images = _scenes(args.num_samples)
    reconstruct = measure_command.reconstruction_fn(
        opened.config["first_stage"], opened.params["first_stage"], images.shape[1:3], args.batch_size
    )
    report, out = cli.progress("reconstructions", len(images)), []
    for start in range(0, len(images), args.batch_size):
        out.append(reconstruct(images[start : start + args.batch_size]))
        report(min(start + args.batch_size, len(images)))
    out = np.concatenate(out)
    figures = dict(psnr=mean_finite(psnr(images, out)), oracle_right=shapes.read_rate(iter(out)))
    figures |= dict(num_samples=len(images), checkpoint=args.checkpoint)
    return Outcome(figures, {"first_stage": [images, out]})


def oracle(args: argparse.Namespace) -> Outcome:
    """How many rendered scenes the oracle reads right."""
    _, images = _scenes(args.num_samples)
    figures = dict(oracle_right=shapes.read_rate(iter(images)), num_samples=args.num_samples)
    return Outcome(figures, {"oracle": [images]})


# ------------------------------------------------------------------------------------------- class, layout, semantic
# map


def class_label(args: argparse.Namespace) -> Outcome:
    """The classes that training sees, in turn; with --unseen, as many pictures of each of those that it does not
    see."""
    model = Model(args)
    model.check_takes("class_labels")

    def drawn(label: str, classes: list[int], number: int) -> tuple[float, list[np.ndarray]]:
        labels = [classes[i % len(classes)] for i in range(number)]
        images = model.draw(label, number, class_labels=labels)
        right = [scores.class_right(image, label) for image, label in zip(images, labels, strict=True)]
        return float(np.mean(right)), [_drawn_classes(labels[:SHOWN]), images]

    seen, unseen = scores.seen_classes(), scores.unseen_classes()
    right, columns = drawn("classes", seen, args.num_samples)
    figures, shown = {"class_right": right}, {"class": columns}
    if args.unseen:
        each = -(-args.num_samples // len(seen))
        right, columns = drawn("unseen classes", unseen, each * len(unseen))
        figures["unseen_class_right"], shown["class_unseen"] = right, columns
    return Outcome(figures | model.settings(), shown)


def layout(args: argparse.Namespace) -> Outcome:
    """Boxes and labels of scenes; what is read is matched with them."""
    model = Model(args)
    model.check_takes("layouts")
    scenes, images = _scenes(args.num_samples)
    layouts = [shapes_source.annotations(scene)["layout"] for scene in scenes]
    drawn = model.draw("layouts", len(scenes), layouts=layouts)
    found = [scores.layout_score(image, scene) for image, scene in zip(drawn, scenes, strict=True)]
    figures = dict(
        mean_iou=float(np.concatenate([one.iou for one in found]).mean()),
        class_right=float(np.concatenate([one.class_right for one in found]).mean()),
        count_right=float(np.mean([one.count_right for one in found])),
    )
    boxes = np.stack([_drawn_boxes(scene) for scene in scenes[:SHOWN]])
    return Outcome(figures | model.settings(), {"layout": [boxes, drawn, images]})


def semantic(args: argparse.Namespace) -> Outcome:
    """Semantic maps of scenes, and at twice the width those of two scenes side by side, half as many."""
    model = Model(args)
    model.check_takes("segmentations")
    scenes, images = _scenes(max(args.num_samples, 2))
    maps = np.stack([world.semantic_mask(scene) for scene in scenes]).astype(np.int32)
    pairs = len(scenes) // 2
    wide = np.concatenate([maps[0 : 2 * pairs : 2], maps[1 : 2 * pairs : 2]], axis=2)
    figures, shown = {}, {}
    for name, asked in {"": maps[: args.num_samples], "_wide": wide}.items():
        drawn = model.draw(f"maps{name}", len(asked), segmentations=list(asked), image_shape=asked.shape[1:])
        got = np.stack([scores.segment(image) for image in drawn])
        figures[f"agreement{name}"], figures[f"object_agreement{name}"] = scores.agreement(asked, got)
        shown[f"semantic{name}"] = [_drawn_maps(asked[:SHOWN]), drawn, _drawn_maps(got[:SHOWN])]
    shown["semantic"].append(images)
    return Outcome(figures | model.settings(), shown)


# --------------------------------------------------------------------------------- super-resolution, inpainting, color


def superres(args: argparse.Namespace) -> Outcome:
    """Scenes, or crops of the photographs of --images, made small by Pillow's bicubic filter and enlarged again by the
    model; beside it what the bicubic filter makes of them."""
    model = Model(args, any_size=bool(args.images))
    model.check_takes("low_res_images")
    side, small = model.system.image_size, model.system.latent_shape[0]
    images = crops(args.images, args.num_samples, side) if args.images else _scenes(args.num_samples)[1]
    low = [transforms.resize(image, small, small, "bicubic") for image in images]
    drawn = model.draw("enlarged", len(images), low_res_images=low)
    bicubic = np.stack([transforms.resize(image, side, side, "bicubic") for image in low])
    nearest = np.stack([transforms.resize(image, side, side, "nearest") for image in low])
    figures = {}
    for name, made in {"": drawn, "_bicubic": bicubic}.items():
        figures[f"psnr{name}"] = mean_finite(psnr(images, made))
        figures[f"ssim{name}"] = float(ssim(images, made).mean())
    figures |= (
        model.settings() | dict(factor=side // small) | ({"images": args.images} if args.images else {})
    )
    return Outcome(figures, {"superres": [nearest, bicubic, drawn, images]})


def crops(folder: str | Path, number: int, side: int) -> np.ndarray:
    """`number` squares [N, side, side, 3] uint8 of the picture files of a folder, at their own resolution, in turn: the
    center of each, and then places drawn at random, the same ones every time. A picture that is too small is enlarged
    first.

    Raises: ValueError for a folder that is not there or without pictures, and for a file that cannot be read.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"--images {str(folder)!r} is not there, expected a folder of pictures")
    files = pictures.files_in(folder, EXTENSIONS)
    out = np.empty((number, side, side, 3), np.uint8)
    for index, file in enumerate(files[:number]):
        image = pictures.read_picture(file)
        small, rng = min(image.shape[:2]) < side, np.random.default_rng(index)
        out[index] = (
            transforms.resized_crop(image, side, "bicubic") if small else transforms.center_crop(image, side)
        )
        for i in range(index + len(files), number, len(files)):
            out[i] = (
                transforms.resized_crop(image, side, "bicubic", rng)
                if small
                else transforms.random_crop(image, side, rng)
            )
    return out


def inpaint(args: argparse.Namespace) -> Outcome:
    """Scenes with a hole. A model that takes no masks fills it by the sampler's own blending, and is told the scene if
    it takes prompts or class labels."""
    model = Model(args)
    scenes, images = _scenes(args.num_samples)
    chance = [np.random.default_rng([FIRST_SEED, i]) for i in range(len(scenes))]
    hidden_by = [
        masks.draw(args.mask, *image.shape[:2], rng) for image, rng in zip(images, chance, strict=True)
    ]
    holes = np.stack(hidden_by) >= 0.5
    if "masks" in model.system.takes:
        model.check_takes("images", "masks")
        drawn = model.draw("inpainted", len(scenes), images=list(images), masks=list(holes))
    else:
        told = model.told(scenes)
        drawn = model.draw("inpainted", len(scenes), init_images=list(images), fill_masks=list(holes), **told)
    right = np.asarray([scores.completed_right(*one) for one in zip(drawn, scenes, holes, strict=True)])
    hidden = np.asarray([scores.touches(*one) for one in zip(scenes, holes, strict=True)])
    figures = dict(
        known_identical=bool((drawn == images)[~holes].all()),
        completed_right=float(right.mean()),
        completed_right_where_hidden=float(right[hidden].mean()) if hidden.any() else None,
        hidden=float(hidden.mean()),
    )
    figures["mask"] = args.mask
    masked = np.where(holes[..., None], np.uint8(127), images)
    return Outcome(figures | model.settings(), {"inpaint": [masked, drawn, images]})


def colorize(args: argparse.Namespace) -> Outcome:
    """Gray pictures of scenes, to be given colors."""
    model = Model(args)
    model.check_takes("images")
    scenes, images = _scenes(args.num_samples)
    gray = scores.luma(images)
    shown = np.repeat(gray, 3, axis=-1)
    drawn = model.draw("colored", len(scenes), images=list(shown))
    found = [scores.color_score(image, scene) for image, scene in zip(drawn, scenes, strict=True)]
    figures = dict(
        shape_right=float(np.mean([one.shape_right for one in found])),
        psnr_luma=mean_finite(psnr(gray, scores.luma(drawn))),
        color_legible=float(np.concatenate([one.legible for one in found]).mean()),
    )
    return Outcome(figures | model.settings(), {"colorize": [shown, drawn, images]})


# ---------------------------------------------------------------------------------------------------------
# image-to-image


def img2img(args: argparse.Namespace) -> Outcome:
    """Scenes as the pictures to begin with. The two ends of strength are tried on one batch."""
    model = Model(args)
    scenes, images = _scenes(args.num_samples)
    told = model.told(scenes)
    few = min(args.num_samples, args.batch_size)
    others = _scenes(few, first=args.num_samples)[1]

    def at(strength: float, init: np.ndarray) -> np.ndarray:
        given = {name: values[: len(init)] for name, values in told.items()}
        return model.draw(
            f"strength {strength:g}", len(init), init_images=list(init), strength=strength, **given
        )

    latents = model.model.encode(transforms.to_float(images[:few]))
    rebuilt = grid.to_uint8(model.model.decode(latents))
    kept = at(0.0, images[:few])
    anew = [at(1.0, init) for init in (images[:few], others)]
    between = {strength: at(strength, images) for strength in STRENGTHS}
    figures = dict(
        strength_0_is_reconstruction=bool(np.array_equal(kept, rebuilt)),
        strength_1_ignores_image=bool(np.array_equal(*anew)),
        psnr_to_image={f"{s:g}": mean_finite(psnr(images, drawn)) for s, drawn in between.items()},
    )
    rows = [images[:few], kept, *(drawn[:few] for drawn in between.values()), anew[0]]
    return Outcome(figures | model.settings(), {"img2img": rows})


# ---------------------------------------------------------------------------------------------- conditions to be looked
# at


def _drawn_classes(labels: Sequence[int]) -> np.ndarray:
    """[N, 64, 64, 3] uint8: an object of each class."""
    plain, middle = world.Background("plain", (242, 242, 242), 0.0, 0), world.SIZE / 2
    drawn = []
    for label in labels:
        color, shape = world.CLASS_NAMES[label].split()
        drawn.append(
            world.render(world.Scene((world.Object(shape, color, "large", middle, middle, 12.0),), plain))
        )
    return np.stack(drawn)


def _drawn_boxes(scene: world.Scene) -> np.ndarray:
    """[64, 64, 3] uint8: the boxes of a scene, in the colors and with the first letters of the shapes of their
    classes."""
    picture = Image.new("RGB", (world.SIZE, world.SIZE), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    for o in scene.objects:
        pen.rectangle([round(side) for side in o.box], outline=world.COLORS[o.color])
        pen.text((o.x - o.r + 2, o.y - o.r), o.shape[:2], fill=world.COLORS[o.color])
    return np.asarray(picture)


def _drawn_maps(maps: np.ndarray) -> np.ndarray:
    """[N, H, W] classes -> [N, H, W, 3] uint8: a class in its color, the background bright, what is UNREAD pink."""
    colors = np.full((256, 3), (255, 105, 220), np.uint8)
    colors[0] = 242
    for label, name in enumerate(world.CLASS_NAMES):
        colors[label + 1] = world.COLORS[name.split()[0]]
    return colors[maps]


def write_grid(path: Path, columns: Sequence[np.ndarray]) -> None:
    """The first pictures of each column beside each other, a row for each, as a PNG; a single column fills a square."""
    rows = min([SHOWN, *map(len, columns)])
    beside = np.stack([column[:rows] for column in columns], axis=1)
    beside = beside.reshape(-1, *beside.shape[2:])
    grid.write_png(path, grid.grid(beside, columns=len(columns) if len(columns) > 1 else None))


# ------------------------------------------------------------------------------------------------------------ the
# command

TASKS: dict[str, Callable[[argparse.Namespace], Outcome]] = {
    "shapes": text,
    "first_stage": first_stage,
    "oracle": oracle,
    "class": class_label,
    "layout": layout,
    "semantic": semantic,
    "superres": superres,
    "inpaint": inpaint,
    "img2img": img2img,
    "colorize": colorize,
}


def parser() -> argparse.ArgumentParser:
    """Of the command with a task."""
    said = "\n".join(
        f"    {name:12} {' '.join(task.__doc__.split('.')[0].split())}" for name, task in TASKS.items()
    )
    made = argparse.ArgumentParser(
        prog="ldm-evaluate", description=f"{__doc__}\n{said}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = made.add_argument
    add("task", choices=list(TASKS))
    add("--num_samples", type=int, default=512, help="in all (default %(default)s)")
    add("--checkpoint", default="shapes", help="shipped model, file or folder (default %(default)s)")
    add("--out", help="a folder for TASK.png: the first pictures beside what the model was told")
    add("--images", help="superres: a folder of photographs to take the place of scenes")
    add("--mask", default="rectangle", help="inpaint: a kind of data/masks.py (default %(default)s)")
    add("--unseen", action="store_true", help="class: the classes that training does not see, as well")
    add = made.add_argument_group("samples").add_argument
    add("--steps", type=int, default=50, help="sampling steps (default %(default)s)")
    add("--sampler", default="ddim", help="a file of ldm_jax/samplers (default %(default)s)")
    add("--guidance_scale", type=float, help="1 is off; default: what the model recommends")
    add("--batch_size", type=int, default=16, help="pictures at once (default %(default)s)")
    cli.add_checkpoint_arguments(made.add_argument_group("the checkpoint").add_argument)
    return made


def run(argv: Sequence[str]) -> dict[str, Any]:
    """argv: a task and its options. Returns what the last line says. Raises: ValueError for what cannot be asked."""
    if argv[0] not in TASKS:
        raise ValueError(f"task {argv[0]!r} not found; there are: {', '.join(TASKS)}, or options alone")
    args = parser().parse_args(argv)
    for name in ("num_samples", "batch_size", "steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    for name, task in {"images": "superres", "unseen": "class"}.items():
        if getattr(args, name) and args.task != task:
            raise ValueError(f"--{name} is for task {task}, got it with task {args.task}")
    outcome = TASKS[args.task](args)
    if args.out:
        for name, columns in outcome.shown.items():
            write_grid(Path(args.out) / f"{name}.png", columns)
    return outcome.figures
