"""ControlNets of diffusers with random weights: their arrays and pictures here, and files of both layouts both ways."""

import numpy as np
import pytest

from ldm_jax.checkpoints import adapters
from ldm_jax.commands import convert
from ldm_jax.convert import safetensors_file
from ldm_jax.inference import pipeline
from ldm_jax.models import controlnet
from ldm_jax.params import flatten
from ldm_jax.types import Cond
from tests.checkpoints.test_lora_files import PROMPT, STEPS, Model
from tests.inference.test_pipeline_parity import our_latents

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
WIDTHS, SIDE = (8, 12), 16


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return Model("sd1", tmp_path_factory.mktemp("sd1"))


def random_net(model, seed):
    """diffusers' net beside the model, no parameter of it zero, in a folder."""
    torch.manual_seed(seed)
    net = diffusers.ControlNetModel.from_unet(model.theirs().unet, conditioning_embedding_out_channels=WIDTHS)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            wide = parameter[0].numel() if parameter.ndim > 1 else 25
            scale = 0.3 if "controlnet_" in name else 0.1
            parameter.add_(scale * torch.randn_like(parameter) / wide**0.5)
    folder = model.folder / f"net_{seed}"
    net.save_pretrained(folder)
    return net.eval(), folder


@pytest.fixture(scope="module")
def nets(sd1):
    return [random_net(sd1, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def hints():
    return np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, 3)).astype(np.float32)


def test_its_arrays_are_theirs(sd1, nets, hints):
    net, folder = nets[0]
    adapter = adapters.read(folder, model=sd1.bundle)
    assert adapter.section == dict(name="controlnet", widths=list(WIDTHS), channels=3)
    rng = np.random.default_rng(1)
    x, context = rng.normal(size=(2, 8, 8, 4)).astype("f"), rng.normal(size=(2, 7, 64)).astype("f")
    t = np.array([10, 700])
    with torch.no_grad():
        turned = [torch.tensor(np.moveaxis(a, -1, 1).copy()) for a in (x, hints)]
        down, middle = net(turned[0], torch.tensor(t), torch.tensor(context), turned[1], return_dict=False)
    unet = pipeline.load(sd1.folder / "bundle").system.unet
    own = controlnet.beside(unet, WIDTHS)
    found = own.apply({"params": adapter.delta["unet"]["controlnet"]}, x, t, Cond(context), hints)
    assert len(found) == len(down) + 1
    for ours, theirs in zip(found, [*down, middle], strict=True):
        assert np.abs(np.moveaxis(np.asarray(ours), -1, 1) - theirs.numpy()).max() <= 1e-4


def test_the_same_picture_as_diffusers_with_two_of_them(sd1, nets, hints):
    scales, start, stop = (
        [0.8, 0.5],
        [0.3, 0.0],
        [1.0, 0.67],
    )  # of three steps one goes without the first or the second
    ours = pipeline.load(sd1.folder / "bundle", adapters=[str(folder) for _, folder in nets])
    plain = sd1.theirs()
    theirs = diffusers.StableDiffusionControlNetPipeline(
        **plain.components, controlnet=[net for net, _ in nets], requires_safety_checker=False
    )
    theirs.set_progress_bar_config(disable=True)
    latents = our_latents(ours)
    pictures = [torch.tensor(hint[None].transpose(0, 3, 1, 2)) for hint in hints]
    given = dict(num_inference_steps=STEPS, guidance_scale=3.0, height=SIDE, width=SIDE, output_type="np")
    with torch.no_grad():
        expected = theirs(
            PROMPT, image=pictures, latents=torch.tensor(latents.transpose(0, 3, 1, 2)),
            controlnet_conditioning_scale=scales, control_guidance_start=start,
            control_guidance_end=stop, **given
        ).images  # fmt: skip
        without = plain(PROMPT, latents=torch.tensor(latents.transpose(0, 3, 1, 2)), **given).images
    assert np.abs(expected - without).max() > 0.02
    settings = ours.resolve(num_steps=STEPS, guidance_scale=3.0, sampler="ddim", spacing="leading")
    asked = dict(
        prompts=[PROMPT], hints=[hints], hint_scales=[scales], hint_starts=[start], hint_stops=[stop]
    )
    drawn = np.clip((ours.decode(ours.sample_latents(asked, [3], batch_size=1, **settings)) + 1) / 2, 0, 1)
    assert np.abs(drawn - expected).max() * 255 <= 2
    program = ours.num_compiled
    given = dict(num_steps=STEPS, guidance_scale=3.0, sampler="ddim", spacing="leading")
    ours.sample(PROMPT, [3], hints=[hints[::-1]], hint_scales=[0.1], **given)
    assert ours.num_compiled == program, "another picture, another scale: nothing anew"


def test_files_of_both_layouts_both_ways(sd1, nets, tmp_path):
    _, folder = nets[0]
    base = str(sd1.folder / "bundle")
    convert.main([str(folder), str(tmp_path / "net.safetensors"), "--to", "compvis", "--base", base])
    names = safetensors_file.read(tmp_path / "net.safetensors")
    wanted = (
        "time_embed.0.weight",
        "zero_convs.0.0.weight",
        "middle_block_out.0.bias",
        "input_hint_block.6.weight",
    )
    assert all(f"control_model.{name}" in names for name in wanted)
    convert.main(
        [str(tmp_path / "net.safetensors"), str(tmp_path / "again"), "--to", "diffusers", "--base", base]
    )
    before = safetensors_file.read(folder / "diffusion_pytorch_model.safetensors")
    after = safetensors_file.read(tmp_path / "again" / "diffusion_pytorch_model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].read(), tensor.read(), err_msg=name)
    again = diffusers.ControlNetModel.from_pretrained(tmp_path / "again")
    for name, value in again.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name].read())
    one, two = (
        flatten(adapters.read(tmp_path / n, model=sd1.bundle).delta) for n in ("net.safetensors", "again")
    )
    assert all(np.array_equal(one[path], two[path]) for path in one)


def test_what_is_none_is_said(sd1, nets, hints, tmp_path):
    _, folder = nets[0]
    state = {
        n: t.read() for n, t in safetensors_file.read(folder / "diffusion_pytorch_model.safetensors").items()
    }
    from ldm_jax.convert import files

    def saved(tensors):
        files.write_safetensors(tmp_path / "x.safetensors", tensors)
        return tmp_path / "x.safetensors"

    for tensors, said in (
        (
            {k: v for k, v in state.items() if k != "conv_in.bias"},
            "of another base: (.|\n)*missing: conv_in.bias",
        ),
        (state | {"conv_in.bias": state["conv_in.bias"] * np.nan}, "has NaN or infinity in it"),
        (
            {"zero_convs.0.0.weight": np.ones(1), "difference": np.ones(1)},
            "holds differences to its base alone",
        ),
        ({"controlnet_mid_block.weight": np.ones(1)}, "has no controlnet_cond_embedding.conv_in.weight"),
    ):
        with pytest.raises(ValueError, match=said):
            adapters.read(saved(tensors), model=sd1.bundle)
    model = pipeline.load(sd1.folder / "bundle", adapters=[str(folder)])
    for given, said in (
        ({}, "this model takes .*hints"),
        (dict(hints=[hints[0] * 2]), r"hints lie in \[.*\], expected uint8 or floats in \[0, 1\]"),
        (dict(hints=[hints[0, :8]]), r"controlnet: hints: got shape \(1, 1, 8, 16, 3\), expected"),
        (dict(hints=[hints[0]], hint_scales=[np.nan]), "controlnet: hint_scales: got NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            model.sample(PROMPT, [3], num_steps=2, **given)
