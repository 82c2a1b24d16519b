"""T2I-Adapters of diffusers with random weights: their features and pictures here, and files of both layouts both
ways.
"""

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters
from ldm_jax.commands import convert
from ldm_jax.convert import files, safetensors_file
from ldm_jax.inference import pipeline
from ldm_jax.models import controlnet, t2i_adapter
from ldm_jax.params import flatten
from ldm_jax.types import Cond
from tests.checkpoints.test_lora_files import PROMPT, STEPS, Model
from tests.inference.test_pipeline_parity import our_latents

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
SIDE = 16
KINDS = {"full": "full_adapter", "light": "light_adapter", "xl": "full_adapter_xl"}


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return Model("sd1", tmp_path_factory.mktemp("sd1"))


def random_adapter(folder, kind, seed=0, **config):
    """diffusers' adapter, in a folder; the models' first stages have the factor 2."""
    torch.manual_seed(seed)
    config = dict(downscale_factor=4 if kind == "xl" else 2, adapter_type=KINDS[kind]) | config
    adapter = diffusers.T2IAdapter(**config)
    adapter.save_pretrained(folder)
    return adapter.eval(), folder


@pytest.fixture(scope="module")
def pair(sd1):
    return [
        random_adapter(sd1.folder / f"adapter_{c}", "full", c, in_channels=c, channels=[32, 64])
        for c in (3, 1)
    ]


def nchw(a):
    return torch.tensor(np.moveaxis(np.asarray(a), -1, 1).copy())


@pytest.mark.parametrize("kind", KINDS)
def test_its_features_are_theirs_and_its_files_come_back(sd1, tmp_path, kind):
    channels = [32, 64, 64, 64][: 3 if kind == "light" else 4]
    theirs, folder = random_adapter(
        tmp_path / "theirs", kind, channels=channels, num_res_blocks=3 if kind == "light" else 2
    )
    adapter = adapters.read(folder, model=sd1.bundle)
    spec = {k: v for k, v in adapter.section.items() if k != "name"}
    assert (spec["kind"], spec["channels"], spec["widths"]) == (kind, 3, [32, 64, 64, 64])
    hint = np.random.default_rng(0).uniform(size=(2, 64, 32, 3)).astype(np.float32)
    own = adapter.delta["unet"]["t2i_adapter"]
    assert t2i_adapter.spec_of(own, 2) == spec
    found = jax.jit(lambda own: t2i_adapter.adapter_of(spec).apply({"params": own}, hint))(own)
    with torch.no_grad():
        expected = theirs(nchw(hint))
    assert len(found) == len(expected) == 4
    for ours, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.moveaxis(np.asarray(ours), -1, 1), wanted.numpy(), atol=2e-5)

    for layout, name in (("compvis", "own.pth"), ("diffusers", "own")):
        adapters.write_file(tmp_path / name, adapter, layout, sd1.bundle)
        again = adapters.read(tmp_path / name, model=sd1.bundle)
        assert again.section == adapter.section
        for path, leaf in flatten(adapter.delta).items():
            np.testing.assert_array_equal(flatten(again.delta)[path], leaf)
    again = diffusers.T2IAdapter.from_pretrained(tmp_path / "own")
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy())
    names = set(
        files.open_tensors(tmp_path / "own.pth")
    )  # those of the original, whose blocks are counted through
    wanted = {
        "light": "body.3.body.2.block2.bias",
        "full": "body.2.in_conv.weight",
        "xl": "body.7.block1.weight",
    }
    assert wanted[kind] in names and not any(name.startswith("adapter.") for name in names)


def test_those_of_sdxl_are_added_where_diffusers_adds_them(tmp_path):
    model = Model("sdxl", tmp_path)
    theirs, folder = random_adapter(tmp_path / "xl", "xl", channels=[32, 64, 64, 64])
    rng = np.random.default_rng(1)
    x, context, vector = (rng.normal(size=s).astype("f") for s in ((1, 8, 8, 4), (1, 7, 128), (1, 64)))
    times, hint = np.arange(6, dtype=np.float32)[None], rng.uniform(size=(1, SIDE, SIDE, 3)).astype("f")
    unet = model.theirs().unet.eval()
    added = dict(text_embeds=torch.tensor(vector), time_ids=torch.tensor(times))
    with torch.no_grad():
        given = [2 * feature for feature in theirs(nchw(hint))]
        expected = unet(nchw(x), 7, torch.tensor(context), added_cond_kwargs=added,
                        down_intrablock_additional_residuals=given).sample  # fmt: skip
        plain = unet(nchw(x), 7, torch.tensor(context), added_cond_kwargs=added).sample
        embedded = unet.add_time_proj(torch.tensor(times).flatten()).reshape(1, -1)
    assert (expected - plain).abs().max() > 0.05
    pipe = pipeline.load(model.folder / "bundle", adapters=[f"{folder}:2"])
    ones = np.ones((1, 1), np.float32)
    hints = {
        "adapter_images": hint[:, None],
        "adapter_scales": ones,
        "adapter_starts": 0 * ones,
        "T": np.float32([1000]),
    }
    cond = Cond(
        context, vector=np.concatenate([vector, embedded], axis=1), hints=hints | {"adapter_stops": ones}
    )
    t = np.int32([7])
    found, _ = jax.jit(lambda p: controlnet.apply_network(pipe.system.unet, p, x, t, cond))(
        pipe.params["unet"]
    )
    np.testing.assert_allclose(np.moveaxis(np.asarray(found), -1, 1), expected.numpy(), atol=1e-4)


def test_the_same_picture_as_diffusers_with_two_of_them(sd1, pair):
    scales, hints = [0.9, 0.6], np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    hints[1] = hints[1, :, :, :1]  # a gray picture, for that of one channel
    ours = pipeline.load(sd1.folder / "bundle", adapters=[str(folder) for _, folder in pair])
    plain = sd1.theirs()
    parts = {k: v for k, v in plain.components.items() if k != "image_encoder"}
    both = diffusers.MultiAdapter([adapter for adapter, _ in pair])
    theirs = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=both, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    latents = torch.tensor(our_latents(ours).transpose(0, 3, 1, 2))
    given = dict(num_inference_steps=STEPS, guidance_scale=3.0, height=SIDE, width=SIDE, output_type="np")
    with torch.no_grad():
        pictures = [nchw(hints[:1]), nchw(hints[1:, :, :, :1])]
        expected = theirs(
            PROMPT, image=pictures, latents=latents, adapter_conditioning_scale=scales, **given
        ).images
        without = plain(PROMPT, latents=latents, **given).images
    assert np.abs(expected - without).max() > 0.02
    settings = ours.resolve(num_steps=STEPS, guidance_scale=3.0, sampler="ddim", spacing="leading")
    asked = dict(prompts=[PROMPT], adapter_hints=[hints], adapter_hint_scales=[scales])
    drawn = np.clip((ours.decode(ours.sample_latents(asked, [3], batch_size=1, **settings)) + 1) / 2, 0, 1)
    assert np.abs(drawn - expected).max() * 255 <= 2
    program = ours.num_compiled
    off = asked | dict(adapter_hint_scales=[0.0])
    off = np.clip((ours.decode(ours.sample_latents(off, [3], batch_size=1, **settings)) + 1) / 2, 0, 1)
    assert ours.num_compiled == program and np.abs(off - without).max() * 255 <= 2


def test_what_is_none_is_said(sd1, pair, tmp_path):
    _, folder = pair[0]
    state = safetensors_file.read(folder / "diffusion_pytorch_model.safetensors")
    state = {name: tensor.read() for name, tensor in state.items()}

    def saved(tensors):
        files.write_safetensors(tmp_path / "x.safetensors", tensors)
        return tmp_path / "x.safetensors"

    first, last = "adapter.conv_in.weight", "adapter.body.1.resnets.0.block2.weight"
    for tensors, said in (
        ({k: v for k, v in state.items() if k != "adapter.conv_in.bias"}, "missing: conv_in.bias"),
        ({k: v for k, v in state.items() if k != last}, "has no body.1.resnets.0.block2.weight"),
        (state | {first: state[first] * np.nan}, "has NaN or infinity in it"),
        (
            state | {first: np.ones((32, 192, 3, 3), "f")},
            "of another base: its first convolution has 192 channels",
        ),
        (state | {"adapter.body.0.skep.weight": np.ones(1)}, "is of a T2I-Adapter with strided convolutions"),
    ):
        with pytest.raises(ValueError, match=said):
            adapters.read(saved(tensors), model=sd1.bundle)
    with pytest.raises(ValueError, match="cannot be written as kohya"):
        convert.main(
            [str(folder), str(tmp_path / "y"), "--to", "kohya", "--base", str(sd1.folder / "bundle")]
        )
