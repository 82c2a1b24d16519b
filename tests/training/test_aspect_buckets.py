"""Training on pictures of several shapes: the sizes that SDXL is told, a run, and what has no use for it."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.commands import train
from ldm_jax.conditioning import clip, sdxl
from ldm_jax.data import pipeline
from ldm_jax.first_stage import make_first_stage
from ldm_jax.system import Part, System, make_system
from ldm_jax.training import examples
from tests import tiny_diffusion
from tests.conditioning import tiny_clip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(8):
        height, width = [(20, 90), (60, 60)][i % 2]
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a red circle")
    return folder


def config_of(photos, **changes):
    config = tiny_diffusion.get_config().to_dict()
    data = dict(name="folder", split="train", root=str(photos), recipe="plain", aspect_buckets=3)
    config |= dict(image_size=16, data=data, total_steps=6, checkpoint_every=6, batch_size=2)
    return config | changes


def test_sizes_and_crops_go_into_the_vector(photos, tmp_path):
    tiny_clip.write(tmp_path)
    towers = dict(
        clip_l=dict(width=8, num_layers=1, num_heads=2), clip_g=dict(width=8, num_layers=1, num_heads=2)
    )
    conditioner = sdxl.Conditioner(vocab_size=len(tiny_clip.vocabulary()), max_length=7, **towers)
    system = System(
        make_first_stage(dict(name="identity")), None, (Part("sdxl", sdxl, conditioner),), None, "eps",
        clip.clip_tokenizer(tmp_path, 7), 16,
    )  # fmt: skip
    config = config_of(photos)
    source = examples.open_source(config)
    transform = examples.inputs_of(system, examples.conditions_of(config, system, source, crop=None))
    example = {"index": 0, **source[0], "bucket": (8, 32)}
    out = transform(example, np.random.default_rng(0))
    assert out["image"].shape == (8, 32, 3)
    height, width, top, left, *target = out["sizes"]
    assert (height, width) == (20, 90) and target == [8, 32]
    assert top == 0 and 0 <= left <= 4  # it covers as 8 x 36


@pytest.mark.slow
def test_a_run_on_several_shapes(photos, tmp_path):
    """python -m pytest -n 0 -m slow tests/training/test_aspect_buckets.py"""
    state = train.train(config_of(photos), tmp_path / "run")
    assert int(state.step) == 6


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(data=dict(precompute_latents=True)), "does not give whole pictures and their sizes"),
        (dict(steps_per_dispatch=2), "steps_per_dispatch is 2, expected 1: batches of several shapes"),
        (dict(data=dict(aspect_buckets=41)), "got 41, expected 1 to 40"),
        (dict(loss=dict(token_masks=dict(weight=0.1))), "'text' needs maps or masks cut as the image is"),
    ],
)
def test_what_has_no_use_for_them(photos, changes, said):
    config = config_of(photos)
    config |= {k: config[k] | v if isinstance(v, dict) else v for k, v in changes.items()}
    system = make_system(config)
    with pytest.raises(ValueError, match=said):
        examples.order_of(config, system, examples.open_source(config))


def test_a_source_without_sizes(photos):
    config = config_of(photos)
    system = make_system(config)

    class Plain:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"image": np.zeros((16, 16, 3), np.uint8)}

    assert pipeline.abilities(Plain()).shapes is None
    with pytest.raises(ValueError, match="data.aspect_buckets: .* expected a folder"):
        examples.order_of(config, system, Plain())
    assert (
        examples.order_of(config_of(photos, data=dict(config["data"], aspect_buckets=0)), system, Plain())
        is None
    )
