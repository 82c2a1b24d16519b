"""IP-Adapters with random weights: diffusers' picture with the same file, files both ways, and what is none."""

import numpy as np
import pytest

from ldm_jax.checkpoints import adapters
from ldm_jax.convert import files
from ldm_jax.inference import pipeline
from tests.checkpoints.test_lora_files import PROMPT, STEPS, Model
from tests.inference.test_pipeline_parity import our_latents

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
WIDTH, TOKENS, SCALE = 12, 4, 0.6


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return Model("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture(scope="module")
def state(sd1):
    """{name: array} in the original's order: down, up, middle."""
    names = [n for n in sd1.theirs().unet.state_dict() if n.endswith("attn2.to_k.weight")]
    names.sort(key=lambda n: n.startswith("mid_"))  # stable: down and up come first
    shapes = dict(sd1.modules())
    rng, found = np.random.default_rng(0), {}
    for i, name in enumerate(names):
        out, wide = shapes["unet." + name.removesuffix(".weight")]
        for part in "kv":
            found[f"ip_adapter.{2 * i + 1}.to_{part}_ip.weight"] = (
                rng.normal(size=(out, wide)).astype("f") / wide**0.5
            )
    found["image_proj.proj.weight"] = rng.normal(size=(TOKENS * 64, WIDTH)).astype("f") / WIDTH**0.5
    found["image_proj.proj.bias"] = rng.normal(size=TOKENS * 64).astype("f")
    found["image_proj.norm.weight"] = 1 + 0.1 * rng.normal(size=64).astype("f")
    found["image_proj.norm.bias"] = rng.normal(size=64).astype("f")
    return found


def test_the_same_picture_as_diffusers_with_the_same_file(sd1, state, tmp_path):
    file = tmp_path / "ip-adapter.safetensors"
    files.write_safetensors(file, state)
    ours, theirs = pipeline.load(sd1.folder / "bundle", adapters=[str(file)]), sd1.theirs()
    latents = torch.tensor(our_latents(ours).transpose(0, 3, 1, 2))
    given = dict(
        num_inference_steps=STEPS, guidance_scale=3.0, height=16, width=16, output_type="np", latents=latents
    )
    with torch.no_grad():
        without = theirs(PROMPT, **given).images
    nested = {"image_proj": {}, "ip_adapter": {}}
    for name, array in state.items():
        group, _, rest = name.partition(".")
        nested[group][rest] = torch.tensor(array)
    theirs.load_ip_adapter(nested, subfolder="", weight_name="", image_encoder_folder=None)
    theirs.set_ip_adapter_scale(SCALE)
    embedding = np.random.default_rng(1).normal(size=WIDTH).astype("f")
    both = torch.tensor(np.stack([np.zeros(WIDTH, "f"), embedding])[:, None])
    with torch.no_grad():
        expected = theirs(PROMPT, ip_adapter_image_embeds=[both], **given).images
    assert np.abs(expected - without).max() > 0.05
    settings = ours.resolve(num_steps=STEPS, guidance_scale=3.0, sampler="ddim", spacing="leading")

    def drawn(scale):
        asked = dict(prompts=[PROMPT], image_embeddings=[embedding], image_scales=[scale])
        return np.clip((ours.decode(ours.sample_latents(asked, [3], batch_size=1, **settings)) + 1) / 2, 0, 1)

    assert np.abs(drawn(SCALE) - expected).max() * 255 <= 2
    assert np.abs(drawn(0.0) - without).max() * 255 <= 2


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_files_go_out_as_they_came(name, sd1, state, tmp_path):
    files.write_safetensors(tmp_path / "in.safetensors", state)
    adapter = adapters.read(tmp_path / "in.safetensors", model=sd1.bundle)
    assert adapter.section == dict(name="ip_adapter", width=WIDTH, tokens=TOKENS)
    adapters.write_file(tmp_path / name, adapter, "diffusers", sd1.bundle)
    back = files.open_tensors(tmp_path / name)
    assert back.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_array_equal(back[key].read(), array)


def test_what_is_none_is_said(sd1, state, tmp_path):
    first = "ip_adapter.1.to_k_ip.weight"
    for tensors, said in (
        ({k: v for k, v in state.items() if "image_proj" not in k}, "of patches or faces, which is not read"),
        (
            {k: v for k, v in state.items() if k != first},
            f"another base: 1 of its arrays do not fit, such as {first}",
        ),
        (state | {first: state[first] * np.nan}, "has NaN or infinity in it"),
    ):
        files.write_safetensors(tmp_path / "x.safetensors", tensors)
        with pytest.raises(ValueError, match=said):
            adapters.read(tmp_path / "x.safetensors", model=sd1.bundle)
