"""The doors: every way in for files and values that somebody else wrote, each with something good that is broken.

A door of files has `make(folder)`, which leaves good ones, `broken`, of which names one is broken at a time, and
`open(folder)`. A door of values has `good`, plain data, and `open(value)`. What they call is what users call, or the
first function behind it that compiles nothing.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from PIL import Image

from ldm_jax import cli
from ldm_jax.checkpoints import adapters, base, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import config_flag
from ldm_jax.conditioning import layout, text
from ldm_jax.conditioning.base import numbers
from ldm_jax.convert import files, original_config
from ldm_jax.data import captions, latents, listing, pictures
from ldm_jax.inference import checks, runs, settings
from ldm_jax.system import make_system
from ldm_jax.tasks import jobs, labels, run
from tests import tiny_models
from tests.tasks.test_run import FakeModel

CORPUS = Path(__file__).parents[1] / "corpus"


class Door(NamedTuple):
    """broken: patterns of the files of which one is broken, the others stay good. sound: of a result. named: what a
    refusal names, beside the folder. cost: how many tries this one is worth, where each takes longer."""

    open: Callable[[Any], Any]
    make: Callable[[Path], None] | None = None
    broken: tuple[str, ...] = ("*",)
    good: Any = None
    sound: Callable[[Any], bool] = lambda result: True
    named: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------- checkpoints


@functools.cache
def tiny() -> base.Checkpoint:
    """A Stable Diffusion 1 of the smallest networks."""
    folder = Path(shutil.os.environ.get("TMPDIR", "/tmp")) / f"ldm_jax_doors_{shutil.os.getpid()}"
    try:
        made = tiny_models.stable_diffusion_1(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    params = jax.tree.map(base.as_float32, made.params)
    return base.Checkpoint(made.config, jax.tree.map(write_as, params), made.tokenizer, "bundle")


def write_as(array):
    from ldm_jax.convert.tensor import as_tensor

    return as_tensor(np.asarray(array, np.float16))


def opened(path: Path) -> base.Bundle:
    """With every array read; weights that are not finite are refused where a picture of theirs would be."""
    bundle = open_checkpoint(path).bundle()
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bundle.params)):
        checks.check_drawn(np.array([0]), settings.FALLBACK, bundle.params, np.array([np.nan]))
    return bundle


def is_model(bundle: base.Bundle) -> bool:
    return bundle.config["task"] in ("diffusion", "first_stage") and all(
        leaf.dtype.kind in "fiu" for leaf in jax.tree.leaves(bundle.params)
    )


def single(name: str):
    def make(folder: Path) -> None:
        write.write(tiny(), folder / name, "compvis")
        tiny().tokenizer.save(str(folder / "tokenizer.json"))

    return make


def bundle(folder: Path) -> None:
    write.write(tiny(), folder / "b", "bundle")


def diffusers(folder: Path) -> None:
    write.write(tiny(), folder / "d", "diffusers")


def legacy(folder: Path) -> None:
    state = {f"layer.{i}": torch.arange(6.0) + i for i in range(4)} | {"step": 3, "lr": [0.1]}
    torch.save({"state_dict": state}, folder / "m.ckpt", _use_new_zipfile_serialization=False)


def zipped(folder: Path) -> None:
    torch.save({"state_dict": {f"layer.{i}": torch.arange(6.0) + i for i in range(4)}}, folder / "m.ckpt")


def shards(folder: Path) -> None:
    for part in (1, 2):
        tensors = {f"layer.{i}": np.arange(6.0) + i for i in range(2 * part, 2 * part + 2)}
        files.write_safetensors(folder / f"m-{part}-of-2.safetensors", tensors)
    placed = {f"layer.{i}": f"m-{i // 2}-of-2.safetensors" for i in range(2, 6)}
    (folder / "m.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=placed)))


def adapter(folder: Path) -> None:
    delta = {"unet": {"to_q": {"a": np.ones((4, 2), np.float32), "b": np.ones((2, 4), np.float32)}}}
    adapters.save(folder / "a", adapters.Adapter(dict(name="lora", rank=2, alpha=2.0), delta, "shapes"))


def tensors_of(name: str):
    def read(folder: Path) -> dict[str, np.ndarray]:
        return {key: tensor.read() for key, tensor in files.open_tensors(folder / name).items()}

    return read


def are_arrays(found: dict[str, np.ndarray]) -> bool:
    return bool(found) and all(isinstance(array, np.ndarray) for array in found.values())


# ---------------------------------------------------------------------------------------- text and pictures


def yamls(folder: Path) -> None:
    for name in ("crossattn_class", "hybrid_adm", "concat_inpaint"):
        shutil.copy(CORPUS / "original" / name / "config.yaml", folder / f"{name}.yaml")


def read_yamls(folder: Path) -> list[dict]:
    return [original_config.read(path) for path in sorted(folder.glob("*.yaml"))]


def tokenizer(folder: Path) -> None:
    shutil.copy(CORPUS / "files" / "tokenizers" / "transformers_5" / "tokenizer.json", folder)


def tokens(folder: Path) -> np.ndarray:
    loaded = text._fix_length(text.load_tokenizer(folder / "tokenizer.json"), 8)
    return text.tokenize(["a red circle", "!"], loaded)["tokens"]


LAYOUT = dict(
    boxes=[[0, 0, 0.5, 0.5], [0.25, 0.25, 0.5, 0.75]], labels=[0, "red square"], group=[True, False]
)
SIZES = dict(vocab_size=1024, num_classes=3, max_length=11)


def layouts(folder: Path) -> None:
    (folder / "layout.json").write_text(json.dumps(LAYOUT))


def read_layout(folder: Path) -> np.ndarray:
    (result,) = [r for _, r in run.run(_layout_model(), [dict(layout=folder / "layout.json")])]
    if isinstance(result, ValueError):
        raise result
    return result


def _layout_model() -> FakeModel:
    def check(given):
        layout.tokens(given["layouts"][0], **SIZES)

    return FakeModel("layouts", check=check)


def images(folder: Path) -> None:
    for path in (CORPUS / "pictures").iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    for suffix in ("jpg", "webp", "bmp", "png"):
        Image.effect_noise((16, 16), 50).save(folder / f"noise.{suffix}")


def every(read: Callable[[Path], np.ndarray]):
    """Reads the one file that was broken."""

    def call(folder: Path) -> np.ndarray:
        return read(folder / (folder / ".broken").read_text())

    return call


def is_picture(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3 and array.size > 0


def arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("depth", "mask", "embeddings"):
        np.save(folder / f"{name}.npy", rng.random((16, 16)).astype(np.float32))
    Image.fromarray(rng.integers(0, 9, (16, 16)).astype(np.uint8)).save(folder / "map.png")


def read_arrays(path: Path) -> np.ndarray:
    read = dict(depth=pictures.read_depth, mask=pictures.read_mask, map=pictures.read_map).get(path.stem)
    array = read(path) if read else pictures.load_array(path, "embeddings")
    return numbers([array], (None, None), str(path))


def lines(folder: Path) -> None:
    Image.effect_noise((16, 16), 50).convert("RGB").save(folder / "x.png")
    good = [dict(prompt="a", name="good"), dict(prompt="b", image="x.png", seed=3, strength=0.5)]
    good += [dict(prompt="c", negative_prompt="d", size="16x16", guidance={"interval": {"start": 0.1}})]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in good))


def draw_lines(folder: Path) -> list:
    """Each picture, or the sentence in its place. Raises: what a whole file is refused with."""
    found, failures = jobs.of_lines(folder / "jobs.jsonl")
    said = [failure.error for failure in failures]
    results = [result for _, result in run.run(FakeModel("prompts"), found)]
    said += [str(result) for result in results if isinstance(result, ValueError)]
    if any(not line or len(line) > 1000 or "\n" in line for line in said):
        raise TypeError(f"no sentence: {said}")
    return [result for result in results if not isinstance(result, ValueError)]


def stated(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(b"")
    rows = [dict(file_name=f"{name}.png", text=f"the letter {name}") for name in "abc"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.txt").write_text("the first letter")


def read_captions(folder: Path) -> dict:
    there = listing.walk(folder, captions.SUFFIXES)
    return captions.of_listing(there, folder, [f"{name}.png" for name in "abc"]).captions


def records(folder: Path) -> None:
    made = latents.MadeOf(
        "a" * 64, "b" * 64, "folder", "train", 10, 16, "crop", True, [4, 4, 8], True, "float32", "float32",
        ["caption"], None, "array_record", 4,
    )  # fmt: skip
    (folder / latents.RECORD).write_text(
        json.dumps(made._asdict() | dict(scale_factor=1.0, mean=[0.0], std=[1.0]))
    )


def read_record(folder: Path) -> list[int]:
    record = latents.read_record(folder)
    return [] if record is None else latents.missing_shards(folder, latents.made_of(record))


# ---------------------------------------------------------------------------------------- values


@functools.cache
def system():
    config = dict(
        task="diffusion", image_size=16, first_stage=dict(name="identity"),
        model=dict(in_channels=3, out_channels=3, channels=8, channel_mult=[1], num_res_blocks=1, num_heads=2,
                   attention_levels=[0], transformer_depth=1, context_dim=8, num_groups=4),
        conditioning=dict(name="text", width=8, num_layers=1, max_length=6, num_heads=2, head_dim=4,
                          tokenizer=dict(name="word_level", words=["a", "red", "circle"], max_length=6)),
        schedule=dict(name="linear", num_timesteps=1000),
    )  # fmt: skip
    return make_system(config)


def prompt(value: Any) -> np.ndarray:
    given, seeds = settings.pictures_of({"prompts": value}, dict(prompt_embeddings=None, num_images_per_prompt=1, seeds=[0, 1], init_images=None, latents=None))  # noqa: E501  # fmt: skip
    return runs.condition_inputs(system(), given, None, seeds, (16, 16))[0]["tokens"]


NUMBERS = dict(
    num_steps=4, guidance_scale=2.0, eta=0.5, clip_denoised=1.0, sampler="ddim", spacing="uniform", final_alpha="first",
    strength=0.5, seeds=[0, 1], size="16x16", text_of_seeds="0-3", class_label="1:0.5", image_shape=[16, 16], tile=8,
)  # fmt: skip


def number(value: Any) -> runs.Run:
    """A run of these settings, everything but drawn."""
    if not isinstance(value, dict):
        raise ValueError("numbers: no settings")
    value = NUMBERS | value
    cli.parse_seeds(str(value["text_of_seeds"]))
    run._size(value["size"])
    labels.class_label(value["class_label"])
    checks.check_number("strength", value["strength"], 0, 1)
    checks.check_options(system(), dict(batch_size=4, tile=value["tile"], progress=None, callback=None, sampler_options=None, output="np"), {})  # noqa: E501  # fmt: skip
    shape = system().check_shape(value["image_shape"])
    asked = settings.resolve_settings({}, **{name: value.get(name) for name in settings.FALLBACK})
    seeds = settings.check_seeds(value["seeds"])
    return runs.make_run(
        system(),
        {"prompts": ["a"] * len(seeds)},
        seeds,
        asked | dict(sampler_options=None),
        image_shape=shape,
    )


OVERRIDES = {
    "model.channels": 8, "model.channel_mult": [1, 2], "model.dropout": 0.1, "image_size": 64, "batch_size": 4,
    "schedule.num_timesteps": 1000, "schedule.beta_end": 0.01, "conditioning.width": 8, "optimizer.name": "adam",
    "first_stage.name": "identity", "sampling": {"num_steps": 2}, "seed": 0,
}  # fmt: skip


def override(value: Any) -> dict:
    if not isinstance(value, dict):
        raise ValueError("--config: no keys")
    said = [
        f"--config.{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in value.items()
    ]
    return config_flag.read_config(["--config=tests/tiny_diffusion.py", *(part[:5000] for part in said)])


def are_strings(found: dict) -> bool:
    return all(isinstance(value, str) for value in found.values())


def are_configs(found: list[dict]) -> bool:
    return all("first_stage" in one for one in found)


WEIGHTS = ("parameter",)  # of those that are not finite, the name of one
DOORS = {
    "ckpt of the original's": Door(lambda f: opened(f / "m.ckpt"), single("m.ckpt"), sound=is_model, named=WEIGHTS),
    "safetensors of the original's": Door(
        lambda f: opened(f / "m.safetensors"), single("m.safetensors"), sound=is_model, named=WEIGHTS
    ),
    "bundle": Door(lambda f: opened(f / "b"), bundle, ("b/*",), sound=is_model, named=WEIGHTS),
    "diffusers folder": Door(lambda f: opened(f / "d"), diffusers, ("d/*", "d/*/*"), sound=is_model, named=WEIGHTS),
    "torch.save, zip": Door(tensors_of("m.ckpt"), zipped, sound=are_arrays),
    "torch.save before 1.6": Door(tensors_of("m.ckpt"), legacy, sound=are_arrays),
    "shards and their index": Door(tensors_of("m.safetensors.index.json"), shards, sound=are_arrays),
    "adapter": Door(lambda f: adapters.read(f / "a"), adapter, ("a/*",), sound=lambda a: isinstance(a.section, dict)),
    "YAML of the original's": Door(read_yamls, yamls, sound=are_configs),
    "tokenizer.json": Door(tokens, tokenizer, sound=lambda ids: ids.shape == (2, 8)),
    "layout": Door(read_layout, layouts, named=("layout", "class", "label")),
    "picture": Door(every(pictures.read_picture), images, sound=is_picture),
    "mask": Door(every(pictures.read_mask), images, sound=lambda m: m.dtype == bool and m.ndim == 2),
    "label map": Door(every(pictures.read_map), images, sound=lambda m: m.dtype == np.int32 and m.ndim == 2),
    "depth map": Door(every(pictures.read_depth), images, sound=lambda m: m.dtype == np.float32 and m.ndim == 2),
    ".npy": Door(every(read_arrays), arrays, sound=lambda array: bool(np.isfinite(array).all()), named=("mask",)),
    "jobs file": Door(draw_lines, lines, ("*.jsonl",)),
    "captions": Door(read_captions, stated, ("*.jsonl", "*.txt"), sound=are_strings),
    "record of latents": Door(read_record, records, ("*.json",), sound=lambda shards: isinstance(shards, list)),
    "prompts": Door(prompt, good=["a red circle", "red"], sound=lambda ids: ids.shape == (2, 6), named=("prompt",)),
    "numbers of a call": Door(
        number, good=NUMBERS, sound=lambda r: r.number >= 1,
        named=("numbers", *NUMBERS, "seeds", "sampler", "timesteps", "steps", "size", "class", "spacing", "prompts"),
    ),
    "config overrides": Door(override, good=OVERRIDES, sound=lambda c: isinstance(c, dict), named=("config",)),
}  # fmt: skip
