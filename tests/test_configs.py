"""Every file of configs/: it builds, its shapes fit together, it has the published parameters, and says what it
must."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax import grid
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import dry_run, train
from ldm_jax.config import conditioning_kinds
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.first_stage import make_first_stage
from ldm_jax.inference import pipeline
from ldm_jax.inference.settings import check_sampling
from ldm_jax.shapes_world.scenes import CLASS_NAMES
from ldm_jax.system import make_system
from ldm_jax.training.base_model import with_base
from ldm_jax.training.examples import conditions_of, open_source
from ldm_jax.training.first_stage_job import image_transform
from ldm_jax.training.prior import with_prior
from ldm_jax.training.workdir import check_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if p.stem not in ("__init__", "base"))

# Parameters of the first stages: the fact sheet's section 1.1, which are the originals' modules counted.
FIRST_STAGES = dict(
    kl_f4=55_312_063, kl_f8=83_653_863, kl_f16=69_610_963, kl_f32=103_880_131, vq_f4=55_322_782,
    vq_f4_noattn=53_219_486, vq_f8=67_717_295, vq_f8_n256=67_652_783, vq_f16=69_593_371,
)  # fmt: skip
# Of table 8 too, but never released: what `autoencoder` counts by hand.
UNRELEASED = ("kl_f2", "kl_f16_d8", "kl_f32_d16", "vq_f2", "vq_f2_n64", "vq_f4_n256", "vq_f32")


def autoencoder(
    name, channels, channel_mult, num_res_blocks, attention_levels, z_channels, embed_dim, **more
) -> int:
    """The parameters of an autoencoder by hand; z_channels are embed_dim in all of them."""

    def conv(kernel, into, out):
        return kernel**2 * into * out + out

    def block(into, out):
        shortcut = conv(1, into, out) if into != out else 0
        return 2 * into + conv(3, into, out) + 2 * out + conv(3, out, out) + shortcut

    def attention(width):
        return 2 * width + 4 * conv(1, width, width)

    widths, moments = [channels * m for m in channel_mult], z_channels * (2 if name == "kl" else 1)
    deepest = widths[-1]
    middle = 2 * block(deepest, deepest) + (attention(deepest) if more.get("attn_type") != "none" else 0)
    down = up = 0
    for level, width in enumerate(widths):
        above = widths[max(0, level - 1)] if level else channels
        below = widths[min(level + 1, len(widths) - 1)]
        attended = attention(width) if level in attention_levels else 0
        down += block(above, width) + block(width, width) * (num_res_blocks - 1) + num_res_blocks * attended
        up += block(below, width) + block(width, width) * num_res_blocks + (num_res_blocks + 1) * attended
        down += conv(3, width, width) if level + 1 < len(widths) else 0
        up += conv(3, width, width) if level else 0
    encoder = conv(3, 3, channels) + down + middle + 2 * deepest + conv(3, deepest, moments)
    decoder = conv(3, z_channels, deepest) + middle + up + 2 * widths[0] + conv(3, widths[0], 3)
    codes = more.get("n_embed", 0) * embed_dim
    return encoder + conv(1, moments, moments) + conv(1, embed_dim, z_channels) + decoder + codes


def tower(width: int, layers: int, projection: int = 0) -> int:
    """CLIP's text tower by hand: embeddings, 12 d^2 + 13 d for each layer, the last norm and the projection."""
    return (49408 + 77) * width + layers * (12 * width**2 + 13 * width) + 2 * width + width * projection


def bert(total: int, width: int, vocab_size: int) -> int:
    """The original's text transformer without its projection to the vocabulary, which nothing reads."""
    return total - (width + 1) * vocab_size


CLIP_L, OPENCLIP_H, OPENCLIP_G = tower(768, 12), tower(1024, 24, 1024), tower(1280, 32, 1280)
assert CLIP_L == 123_060_480
# Second stages: first stage, UNet (sections 1.2), conditioner (1.3).
SECOND_STAGES = dict(
    celebahq_ldm4=("vq_f4", 274_056_163, 0),
    ffhq_ldm4=("vq_f4", 274_056_163, 0),
    lsun_bedrooms_ldm4=("vq_f4", 274_056_163, 0),
    lsun_churches_ldm8=("kl_f8", 294_966_916, 0),
    imagenet_ldm8=("vq_f8", 394_984_196, 1000 * 512),
    imagenet_ldm4=("vq_f4", 400_920_579, 1001 * 512),
    text2img_256=("vq_f4", 403_623_939, bert(186_154_682, 640, 30522)),
    text2img_1p4b=("kl_f8", 872_300_484, bert(581_994_042, 1280, 30522)),
    layout_openimages=("vq_f4", 246_277_379, bert(58_858_496, 512, 8192)),
    semantic_256=("vq_f4", 215_229_315, 182 * 3),
    semantic_512=("vq_f4", 215_229_315, 182 * 3),
    superres_bsr=("vq_f4", 113_622_563, 0),
    superres_bicubic=("vq_f4", 113_622_563, 0),
    inpainting_big=("vq_f4_noattn", 387_245_827, 0),
    adm_64=(None, 295_904_454, 0),
    rdm_768=("kl_f16", 1_335_480_400, 0),
    sd1=("kl_f8", 859_520_964, CLIP_L),
    sd1_inpainting=("kl_f8", 859_535_364, CLIP_L),
    sd2=("kl_f8", 865_910_724, OPENCLIP_H),
    sd2_v=("kl_f8", 865_910_724, OPENCLIP_H),
    sd2_inpainting=("kl_f8", 865_925_124, OPENCLIP_H),
    sd2_depth=("kl_f8", 865_913_604, OPENCLIP_H),
    sd2_unclip=("kl_f8", 870_173_124, OPENCLIP_H + 2 * 1024),
    sd_x4_upscaler=(None, 473_398_020, OPENCLIP_H),
    sdxl_base=("kl_f8", 2_567_463_684, CLIP_L + OPENCLIP_G),
    sdxl_refiner=("kl_f8", 2_259_526_660, OPENCLIP_G),
    sd_turbo=("kl_f8", 865_910_724, OPENCLIP_H),
    sdxl_turbo=("kl_f8", 2_567_463_684, CLIP_L + OPENCLIP_G),
)

# Of the paper's tables, without a released file: the count here, to the unit, and that of the table in millions, of the
# UNet and what is named. None: the paper says none, or the network is this repository's own guess, as its config says.
TABLES = dict(
    imagenet_ldm1=(None, 396_835_971, 1000 * 512, 396),
    imagenet_ldm2=("vq_f2", 390_888_578, 1000 * 512, 391),
    imagenet_ldm16=("vq_f16", 395_002_632, 1000 * 512, 395),
    imagenet_ldm32=(None, 395_113_248, 1000 * 512, 395),
    celebahq_ldm1=(None, 270_458_115, 0, 270),
    celebahq_ldm2=("vq_f2", 264_510_722, 0, 265),
    celebahq_ldm8=("vq_f8", 257_733_124, 0, 258),
    celebahq_ldm16=("vq_f16", 257_751_560, 0, None),
    celebahq_ldm32=(None, 257_862_176, 0, 258),
    inpainting_vq4=("vq_f4", 215_230_467, 0, 215),
    inpainting_vq4_noattn=("vq_f4_noattn", 215_230_467, 0, 215),
    inpainting_kl4=("kl_f4", 215_230_467, 0, 215),
    inpainting_ldm1=(None, 220_517_891, 0, None),
    superres_bicubic_big=("vq_f4_noattn", 498_239_683, 0, None),
    superres_pixel=(None, 121_880_483, 0, None),
    layout_coco=("kl_f8", 312_241_540, bert(58_858_496, 512, 8192), None),
    layout_coco_finetuned=("vq_f4", 246_277_379, bert(58_858_496, 512, 8192), None),
)
SECOND_STAGES |= {name: row[:3] for name, row in TABLES.items()}

SHAPES_TASKS = {
    f"shapes_{task}" for task in ("class", "layout", "semantic", "superres", "inpaint", "colorize", "spatext")
}


def get(path: pathlib.Path, arg: str = "") -> dict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert all(word in module.__doc__ for word in ("Run:", "Smoke:", "Source:")), path
    if path.stem in (*FIRST_STAGES, *UNRELEASED, *SECOND_STAGES):
        assert "Result:" in module.__doc__
    return module.get_config(*([arg] if arg else [])).to_dict()


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


@functools.cache
def second_stage_counts(parts: str) -> dict[str, int]:
    """{'unet', 'conditioner': parameters} of a config's parts, as JSON: several configs share theirs."""
    shapes = jax.eval_shape(make_system(json.loads(parts)).init, jax.random.key(0))
    return {name: count(shapes.get(name, {})) for name in ("unet", "conditioner")}


def test_the_whole_zoo_is_here():
    own = {"shapes_kl_f4", "shapes_text", "folder_kl_f4", "folder_ldm4", "folder_superres"} | SHAPES_TASKS
    assert {p.stem for p in CONFIGS} >= {*FIRST_STAGES, *UNRELEASED, *SECOND_STAGES} | own


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shapes_and_counts_resolve(path, monkeypatch):
    config = get(path, "runlocal")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    config = with_base(config)
    resolved = dry_run.trained(config)
    assert resolved["parameters"].get("unet", 1) > 0
    full = get(path)
    if "base" in full:  # which the user names
        full = with_base(dict(full, base="shapes"))
    assert set(full) - set(config) <= {"first_stage", "first_stage_from"}
    check_config(full)
    if full["task"] == "diffusion":
        check_sampling(full["sampling"], make_schedule(**full["schedule"]))


@pytest.mark.parametrize("name", [*FIRST_STAGES, *UNRELEASED])
def test_parameters_of_a_first_stage(name):
    config = get(ROOT / "configs" / f"{name}.py")
    first_stage = make_first_stage(config["first_stage"])
    expected = autoencoder(**config["first_stage"])
    assert FIRST_STAGES.get(name, expected) == expected
    assert count(jax.eval_shape(first_stage.init, jax.random.key(0))) == expected
    assert f"{expected:,}" in (ROOT / "configs" / f"{name}.py").read_text()
    factor = int(re.search(r"f(\d+)", name)[1])
    assert first_stage.factor == factor


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_parameters_of_a_second_stage(name):
    first_stage, unet, conditioner = SECOND_STAGES[name]
    config = get(ROOT / "configs" / f"{name}.py")
    small = {"image_size": 256, "schedule": dict(name="linear", num_timesteps=1)}
    parts = {k: config[k] for k in ("first_stage", "model", "conditioning")} | small
    assert second_stage_counts(json.dumps(parts)) == dict(unet=unet, conditioner=conditioner)
    assert f"{unet:,}" in (ROOT / "configs" / f"{name}.py").read_text() or not TABLES.get(name)
    millions = TABLES.get(name, (None,) * 4)[3]
    assert millions is None or abs(unet / 1e6 - millions) < 1
    if first_stage is not None:
        assert config["first_stage"] == get(ROOT / "configs" / f"{first_stage}.py")["first_stage"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_unknown_argument_is_refused(path):
    with pytest.raises(ValueError, match="runlocal"):
        get(path, "nonsense")


def test_a_config_is_found_from_another_folder(tmp_path):
    """As a script of benchmarks/ asks for it, whose own folder is on the path and not the repository."""
    program = f"from ldm_jax.config import load_config; print(load_config({str(CONFIGS[0])!r})['task'])"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# One level of these, and all configs as they are: python -m pytest -m slow tests/test_configs.py
ONE_LEVEL = ("imagenet_ldm4", "sd1_inpainting", "lsun_churches_ldm8", "semantic_256", "sdxl_base")
TRAINED = [p.stem for p in CONFIGS if not p.stem.startswith("folder")]


@pytest.fixture
def quick_compilation():
    """Two steps and eight small pictures take less time than optimizing what computes them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def one_level(config: dict) -> dict:
    """The deepest level alone."""
    model = {
        k: v[-1:] if isinstance(v, list) and k != "attention_levels" else v
        for k, v in config["model"].items()
    }
    return dict(config, model=model | dict(attention_levels=[0]))


def run(config: dict, workdir: pathlib.Path) -> None:
    """Trains, and draws again what the training showed last, from what it left."""
    assert config["total_steps"] == 2
    assert int(train.train(config, workdir).step) == 2
    if config["task"] == "classifier":  # which shows none
        opened = open_checkpoint(workdir).bundle()
        assert opened.config["task"] == "classifier" and opened.params.keys() == {"classifier"}
        return
    pictures = [p.name for p in (workdir / "images").iterdir()]
    if config["task"] == "first_stage":
        assert pictures == ["reconstructions_00000002.png"]
        return
    layouts = {"layout", "layout_map"} & set(conditioning_kinds(config.get("conditioning")))
    shown_layouts = {"layouts_00000002.png"} if layouts else set()
    assert set(pictures) == {"samples_00000002.png"} | shown_layouts
    if config.get("personalization"):
        model, config = pipeline.load(config["base"], adapters=[str(workdir)]), with_base(config)
    else:
        model, config = pipeline.load(str(workdir)), with_base(config)
    source = with_prior(config, workdir, open_source(config))
    named = {"class_labels", "layouts"} & set(model.system.takes)
    assert model.config.get("class_names") == (list(CLASS_NAMES) if named else config.get("class_names"))
    conditions = conditions_of(config, model.system, source, image_transform(config))
    given: dict[str, list] = {}
    seeds = range(min(8, len(source)))  # a picture of each example that is shown
    for i in seeds:
        for name, value in conditions({"index": i, **source[i]}, np.random.default_rng(i))[1].items():
            given.setdefault(name, []).append(value)
    given.pop("seeds", None)
    settings = model.resolve(**config["sampling"])
    images = grid.to_uint8(model.decode(model.sample_latents(given, seeds, batch_size=8, **settings)))
    assert images.shape == (len(seeds), config["image_size"], config["image_size"], 3)
    shown = np.asarray(Image.open(workdir / "images" / "samples_00000002.png"))
    assert np.abs(grid.grid(images, columns=4).astype(int) - shown).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_LEVEL)
def test_two_steps_and_pictures_of_one_level(name, tmp_path, quick_compilation):
    run(one_level(get(ROOT / "configs" / f"{name}.py", "runlocal")), tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_and_pictures(name, tmp_path, quick_compilation):
    run(get(ROOT / "configs" / f"{name}.py", "runlocal"), tmp_path / name)
