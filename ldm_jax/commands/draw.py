"""How sample.py writes what is drawn: a file for each job, the grid of all, previews of steps, and a bar meanwhile."""

import argparse
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm_jax import cli, grid, paths
from ldm_jax.data.pictures import OVERVIEW
from ldm_jax.tasks import boxes, infotext, labels
from ldm_jax.tasks.jobs import Job

GRID_PIXELS = 2**24  # of the pictures that the grid shows, and that are kept for it: 64 of 512 x 512
PREVIEWS = "previews"  # the folder of previews, in that of the pictures


class Progress:
    """The bar of a call: how many of `total` pictures are done, and the step of those that are being drawn."""

    def __init__(self, total: int):
        self.report, self.done = cli.progress("pictures", total), 0
        if total:
            self.report(0, "compiling, or reading the compiled sampler from the cache")

    def picture(self) -> None:
        self.done += 1
        self.report(self.done)

    def step(self, index: int, num_steps: int) -> None:
        self.report(self.done, f"step {index + 1}/{num_steps}")


class Previews:
    """Writes what every Nth step, and the last, would take for the clean picture: previews/<job>_<step>_preview.png.

    Steps are handed to `on_step` while the program runs; pictures are decoded and written by a thread of its own, since
    the devices may be the program's until its end. `close` waits for them. Raises there: what went wrong with one.
    """

    def __init__(self, decode: Callable, out: Path, every: int, progress: Progress):
        self.decode, self.folder, self.every = decode, out / PREVIEWS, every
        self.progress, self.error = progress, None
        self.waiting: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def on_step(self, jobs: Sequence[Job], step: Any) -> None:
        """jobs: of the rows of `step`, an inference.pipeline.Step; copies of the last one fill a batch up."""
        self.progress.step(step.index, step.num_steps)
        number = step.index + 1
        if number % self.every == 0 or number == step.num_steps:
            rows = {job.name: i for i, job in enumerate(jobs)}
            self.waiting.put((number, list(rows), step.x_start[list(rows.values())]))

    def _write(self) -> None:
        while (given := self.waiting.get()) is not None:
            number, names, latents = given
            try:
                pictures = grid.to_uint8(np.nan_to_num(self.decode(latents), nan=-1.0))
                for name, picture in zip(names, pictures, strict=True):
                    path = self.folder / f"{name}_{number:04d}_preview.png"
                    grid.write_png(path, picture, {OVERVIEW: "preview", "step": number})
            except Exception as error:  # noqa: BLE001 - said where it is waited for
                self.error = self.error or error

    def close(self) -> None:
        self.waiting.put(None)
        self.thread.join()
        if self.error is not None:
            raise self.error


def draw(
    results: Iterable,
    jobs: list[Job],
    args: argparse.Namespace,
    texts: dict,
    alike: bool,
    model: Any,
    progress: Progress,
) -> tuple[int, int]:
    """Writes the pictures as they come, those of layouts with their boxes beside them, and the grid of as many as
    GRID_PIXELS.

    results: pairs of a job and its picture or error. texts: what all have in common. Returns: how many were drawn, and
    how many failed, which is said on standard error. Raises: the error of one of jobs that are alike.
    """
    order = {job.name: i for i, job in enumerate(jobs)}
    out, shown, drawn, failed, pixels = paths.of(args.out), {}, 0, 0, 0
    for job, result in results:
        if isinstance(result, ValueError):
            if alike:
                raise result
            failed += 1
            say(f"{job.where}: {result}")
        else:
            drawn += 1
            pixels += result.shape[0] * result.shape[1]
            write(out / f"{job.name}.png", result, dict(job.given, **texts, seed=job.seed))
            if "layout" in job.given:
                write_boxes(out / f"{job.name}_boxes.png", result, job, model)
            if pixels <= GRID_PIXELS or not shown:
                shown[order[job.name]] = result
        progress.picture()
    if shown:
        images = same_size([shown[i] for i in sorted(shown)])
        common = {k: v for k, v in jobs[0].given.items() if all(job.given.get(k) == v for job in jobs)}
        texts = dict(common, **texts, seeds=args.seeds, **{OVERVIEW: "grid"})
        grid.write_png(out / "grid.png", grid.grid(images), texts)
    return drawn, failed


def say(line: str) -> None:
    """A line on standard error, after the bar's."""
    cli.end_the_bar()
    print(line, file=sys.stderr)


def write(path: Path, image: np.ndarray, said: Mapping[str, Any]) -> None:
    """A picture [H, W, 3] uint8 with its settings, each as a text chunk, and all as infotext.parameters."""
    shape = image.shape[0], image.shape[1]
    grid.write_png(path, image, {**said, infotext.CHUNK: infotext.parameters(said, shape)})


def write_boxes(path: Path, image: np.ndarray, job: Job, model: Any) -> None:
    """Writes the picture with the boxes that the model was told of, or says why its layout has none to show."""
    names = model.config.get("class_names")
    try:
        layout = labels.told(model.system, job.given["layout"], names)
    except ValueError as error:
        say(f"{job.where}: no {path.name}: {error}")
    else:
        grid.write_png(path, boxes.draw(image, layout, names), {OVERVIEW: "boxes"})


def same_size(images: list[np.ndarray]) -> np.ndarray:
    """[N, H, W, 3] uint8: pictures [h, w, 3] of several sizes, the smaller ones on white."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    out = np.full((len(images), height, width, 3), 255, np.uint8)
    for canvas, image in zip(out, images, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    return out
