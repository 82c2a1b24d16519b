"""Checkpoints of every layout, read and written: what was read and written again is equal, and what does not fit is
said."""

import collections
import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
import yaml
from flax import serialization

from ldm_jax.checkpoints import bundle as bundle_files
from ldm_jax.checkpoints import compvis, write
from ldm_jax.checkpoints import recognize as recognize
from ldm_jax.checkpoints.base import Options
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import convert
from ldm_jax.convert import files
from ldm_jax.params import flatten, unflatten
from tests.checkpoints.flax_folders import make_flax
from tests.tiny_models import CLIP, stable_diffusion_1

TARGETS = {"bundle": "b", "compvis": "c.safetensors", "ckpt": "c.ckpt", "diffusers": "d"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One small model, written in every layout."""
    folder = tmp_path_factory.mktemp("models")
    bundle = stable_diffusion_1(folder / "vocabulary")
    bundle_files.save(folder / "original", bundle)
    checkpoint = open_checkpoint(folder / "original")
    for to, name in TARGETS.items():
        write.write(checkpoint, folder / name, "compvis" if to == "ckpt" else to)
    (folder / "config.json").write_text(json.dumps(bundle.config))
    return folder


def same(a, b) -> bool:
    a, b = flatten(a), flatten(b)
    return a.keys() == b.keys() and all(
        np.array_equal(x.read() if isinstance(x, files.Tensor) else x, b[k]) for k, x in a.items()
    )


@pytest.mark.parametrize("to", TARGETS)
def test_what_was_written_is_read_again_to_the_bit(folder, to):
    options = Options(tokenizer=str(folder / "vocabulary"))
    if to == "ckpt":
        options = options._replace(config=str(folder / "config.json"))
    opened, original = open_checkpoint(folder / TARGETS[to], options), bundle_files.read(folder / "original")
    assert same(opened.params, original.params)
    for entry in ("first_stage", "scale_factor", "schedule", "prediction_type", "image_size"):
        expected = original.config[entry]
        if isinstance(expected, dict):
            assert {k: v for k, v in opened.config[entry].items() if k in expected} == expected
        else:
            assert opened.config[entry] == expected
    given = original.config["model"]
    assert {k: opened.config["model"].get(k) for k in given if k != "num_heads"} == {
        k: v for k, v in given.items() if k != "num_heads"
    }
    assert opened.tokenizer.encode("red circle").ids == original.tokenizer.encode("red circle").ids


@pytest.mark.parametrize("to", TARGETS)
def test_a_single_kind_may_be_listed(folder, tmp_path, to):
    # {clip: {…}} and {name: clip, …} are one model, whose parameters have no level for the kind
    original = bundle_files.read(folder / "original")
    options = {k: v for k, v in original.config["conditioning"].items() if k != "name"}
    config = original.config | dict(conditioning=dict(clip=options))
    bundle_files.save(tmp_path / "listed", original._replace(config=config))
    (tmp_path / "config.json").write_text(json.dumps(config))
    convert.main([str(tmp_path / "listed"), "--inspect"])
    write.write(
        open_checkpoint(tmp_path / "listed"), tmp_path / TARGETS[to], "compvis" if to == "ckpt" else to
    )
    read = Options(tokenizer=str(folder / "vocabulary"))
    if to == "ckpt":
        read = read._replace(config=str(tmp_path / "config.json"))
    again = open_checkpoint(tmp_path / TARGETS[to], read)
    assert same(again.params, original.params)
    assert again.tokenizer.encode("red circle").ids == original.tokenizer.encode("red circle").ids


def test_what_a_diffusers_folder_cannot_say_is_told(folder, tmp_path, caplog):
    original = bundle_files.read(folder / "original")
    for spacing, told in {"leading": 0, "uniform": 1}.items():
        sampling = {"sampler": "ddim", "spacing": spacing, "num_steps": 50, "guidance_scale": 7.5}
        bundle_files.save(
            tmp_path / spacing, original._replace(config=original.config | {"sampling": sampling})
        )
        write.write(open_checkpoint(tmp_path / spacing), tmp_path / f"{spacing}_folder", "diffusers")
        assert len(caplog.records) == told
    assert "no timestep spacing 'uniform'" in caplog.text


def test_the_original_file_is_what_torch_and_the_original_expect(folder):
    torch = pytest.importorskip("torch")
    state = torch.load(folder / "c.ckpt", weights_only=True)["state_dict"]
    assert state["model.diffusion_model.input_blocks.1.1.proj_in.weight"].shape == (32, 32, 1, 1)
    assert state["first_stage_model.post_quant_conv.weight"].shape == (4, 4, 1, 1)
    assert "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight" in state
    # its tables: section 2.9, from the original's own code at float64
    assert state["alphas_cumprod"].dtype == torch.float32
    np.testing.assert_allclose(
        state["alphas_cumprod"][[0, 500, 999]].numpy(), [0.99915, 0.276332684, 4.66009851e-3], rtol=2e-6
    )
    assert set(compvis.BUFFERS) <= set(state)
    signal = state["alphas_cumprod"].double()
    for name, expected in {
        "log_one_minus_alphas_cumprod": torch.log(1 - signal),
        "sqrt_recip_alphas_cumprod": signal**-0.5,
        "sqrt_recipm1_alphas_cumprod": (1 / signal - 1) ** 0.5,
    }.items():
        np.testing.assert_allclose(state[name].numpy(), expected.numpy(), rtol=1e-4, err_msg=name)


def test_objects_in_the_parts_of_a_diffusers_folder_are_passed_over_when_asked(folder, tmp_path):
    torch = pytest.importorskip("torch")
    shutil.copytree(folder / "d", tmp_path / "d")
    for part in ("unet", "vae", "text_encoder"):
        (written,) = (tmp_path / "d" / part).glob("*.safetensors")
        state = {name: torch.tensor(t.read()) for name, t in files.open_tensors(written).items()}
        torch.save(state | {"callbacks": collections.Counter("a")}, written.with_suffix(".bin"))
        written.unlink()
    with pytest.raises(ValueError, match="names collections.Counter.*--ignore_objects"):
        open_checkpoint(tmp_path / "d")
    opened = open_checkpoint(tmp_path / "d", Options(ignore_objects=True))
    original = bundle_files.read(folder / "original")
    assert same(opened.params, original.params)
    asked = Options(ignore_objects=True, first_stage=str(tmp_path / "d" / "vae"))
    other = open_checkpoint(folder / "original", asked)
    assert same(other.params["first_stage"], original.params["first_stage"])


def test_running_averages_are_taken_by_the_names_without_dots(folder, tmp_path):
    state = files.open_tensors(folder / "c.ckpt")
    averaged = {name: t.read() for name, t in state.items()}
    name = "model.diffusion_model.input_blocks.0.0.weight"
    for key in list(averaged):
        if key.startswith("model."):
            averaged["model_ema." + key.removeprefix("model.").replace(".", "")] = averaged[key] + 1
    assert "model_ema.diffusion_modelinput_blocks00weight" in averaged
    averaged |= {"model_ema.decay": np.float32(0.9999), "model_ema.num_updates": np.int64(3)}
    files.write_ckpt(tmp_path / "ema.ckpt", averaged)
    options = Options(config=str(folder / "config.json"))
    ema = open_checkpoint(tmp_path / "ema.ckpt", options)
    raw = open_checkpoint(tmp_path / "ema.ckpt", options._replace(ema=False))
    kernel = state[name].read().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(raw.params["unet"]["conv_in"]["kernel"].read(), kernel)
    np.testing.assert_array_equal(ema.params["unet"]["conv_in"]["kernel"].read(), kernel + 1)
    np.testing.assert_array_equal(
        ema.params["first_stage"]["quant_conv"]["bias"].read(),
        raw.params["first_stage"]["quant_conv"]["bias"].read(),
    )
    del averaged["model_ema.diffusion_modelinput_blocks00weight"]
    files.write_ckpt(tmp_path / "ema.ckpt", averaged)
    with pytest.raises(ValueError, match="1 running averages are missing.*input_blocks00weight.*--raw"):
        open_checkpoint(tmp_path / "ema.ckpt", options)


def test_a_yaml_beside_the_file_tells_what_shapes_do_not(folder, tmp_path):
    config = bundle_files.read_config(folder / "original")
    unet = dict(
        image_size=8, in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[1, 2], num_res_blocks=1,
        channel_mult=[1, 2], num_heads=2, use_spatial_transformer=True, transformer_depth=1, context_dim=64,
        legacy=False,
    )  # fmt: skip
    first = dict(
        embed_dim=4,
        ddconfig=dict(
            double_z=True, z_channels=4, resolution=16, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 2],
            num_res_blocks=1,
            attn_resolutions=[], dropout=0.0,
        ),
    )  # fmt: skip
    params = dict(
        linear_start=0.00085, linear_end=0.012, timesteps=1000, scale_factor=0.18215, image_size=8,
        conditioning_key="crossattn",
        unet_config=dict(target="ldm.modules.diffusionmodules.openaimodel.UNetModel", params=unet),
        first_stage_config=dict(target="ldm.models.autoencoder.AutoencoderKL", params=first),
        cond_stage_config=dict(target="ldm.modules.encoders.modules.FrozenCLIPEmbedder"),
    )  # fmt: skip
    content = dict(model=dict(target="ldm.models.diffusion.ddpm.LatentDiffusion", params=params))
    (tmp_path / "model.ckpt").symlink_to(folder / "c.ckpt")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(content))
    opened = open_checkpoint(tmp_path / "model.ckpt")
    assert same(opened.params, bundle_files.read(folder / "original").params)
    for entry in ("image_size", "scale_factor", "prediction_type"):
        assert opened.config[entry] == config[entry]
    assert opened.config["model"]["num_heads"] == 2
    kinds = {k: opened.config["conditioning"][k] for k in config["conditioning"]}
    assert kinds == config["conditioning"]
    assert any("no tokenizer" in note for note in opened.notes)
    with pytest.raises(ValueError, match=r"tokenizer .*nowhere is not there"):
        open_checkpoint(tmp_path / "model.ckpt", Options(tokenizer=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"no tokenizer\.json, no vocab\.json.* in .*empty"):
        (tmp_path / "empty").mkdir()
        open_checkpoint(tmp_path / "model.ckpt", Options(tokenizer=str(tmp_path / "empty")))


def test_a_first_stage_alone_goes_round(folder, tmp_path):
    original = bundle_files.read(folder / "original")
    state = files.open_tensors(folder / "c.ckpt")
    alone = {
        k.removeprefix("first_stage_model."): t
        for k, t in state.items()
        if k.startswith("first_stage_model.")
    }
    files.write_safetensors(tmp_path / "vae.safetensors", alone | {"loss.logvar": np.zeros((), np.float32)})
    opened = open_checkpoint(tmp_path / "vae.safetensors")
    assert opened.config["task"] == "first_stage"
    assert same(opened.params["first_stage"], original.params["first_stage"])
    write.write(opened, tmp_path / "vae", "diffusers")
    again = open_checkpoint(tmp_path / "vae")
    assert same(again.params["first_stage"], original.params["first_stage"])
    write.write(again, tmp_path / "again.ckpt", "compvis")
    written = {k: t.read() for k, t in files.open_tensors(tmp_path / "again.ckpt").items()}
    assert written.keys() == alone.keys() and all(np.array_equal(written[k], alone[k].read()) for k in alone)
    assert open_checkpoint(folder / "d" / "vae").config["task"] == "first_stage"


def change(folder, tmp_path, **changes) -> str:
    """A copy of the original's file with some of its names taken out (None), added or replaced."""
    state = {k: t.read() for k, t in files.open_tensors(folder / "c.ckpt").items()}
    for name, value in changes.items():
        name = name.replace("__", ".")
        state.pop(name, None)
        if value is not None:
            state[name] = value
    files.write_ckpt(tmp_path / "changed.ckpt", state)
    return str(tmp_path / "changed.ckpt")


KERNEL, BIAS = "model__diffusion_model__out__2__weight", "model__diffusion_model__out__2__bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({BIAS: None}, r"1 names do not fit.*missing: out\.2\.bias \(4,\)"),
        ({"model__diffusion_model__extra": np.zeros(3)}, r"unused: extra \(3,\)"),
        ({BIAS: np.zeros(5, np.float32)}, r"mis-shaped: out\.2\.bias \(5,\), expected \(4,\)"),
        ({"cond_stage_model__adapter": np.zeros(3)}, r"unused: cond_stage_model\.adapter \(3,\)"),
        ({"first_stage_model__decoder__extra": np.zeros(3)}, r"unused: decoder\.extra \(3,\)"),
    ],
)
def test_names_that_do_not_fit_are_listed(folder, tmp_path, changes, message):
    path = change(folder, tmp_path, **changes)
    with pytest.raises(ValueError, match=re.compile(message, re.S)):
        open_checkpoint(path, Options(config=str(folder / "config.json")))


def test_what_is_not_recognized_says_the_nearest(folder, tmp_path):
    shutil.copy(folder / "c.ckpt", tmp_path)  # without the config that was written beside it
    with pytest.raises(ValueError, match=r"nearest released model is \w+.*--original_config"):
        open_checkpoint(tmp_path / "c.ckpt")


def test_what_is_something_else_says_so(tmp_path):
    files.write_safetensors(tmp_path / "m.safetensors", {"fc.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(
        ValueError, match=r"checkpoint of something else: expected names such as .*fc\.weight"
    ):
        open_checkpoint(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="no file, no folder, and no shipped model; those are: shapes"):
        open_checkpoint(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no weights in it"):
        open_checkpoint(tmp_path / "empty")


def test_a_part_of_a_pipeline_is_no_model(folder):
    for part, kind in {"unet": "UNet2DConditionModel", "text_encoder": "CLIPTextModel"}.items():
        with pytest.raises(
            ValueError, match=f"{part} holds a {kind}, a part of a pipeline; expected .*model_index"
        ):
            open_checkpoint(folder / "d" / part)


DERIVED = {
    "ddim_sigmas": np.zeros(7),
    "ddim_alphas": np.zeros(7, np.float32),
    "ddim_alphas_prev": np.zeros(7),
    "ddim_sqrt_one_minus_alphas": np.zeros(7, np.float32),
    "ddim_sigmas_for_original_num_steps": np.zeros(1000, np.float32),
    "cond_stage_model__transformer__text_projection__weight": np.zeros((64, 64), np.float32),
    "first_stage_model__model_ema__decay": np.float32(0.9999),
    "first_stage_model__colorize": np.zeros((3, 19, 1, 1), np.float32),
    "lvlb_weights": np.zeros(1000, np.float32),
    "logvar": np.zeros(1000, np.float32),
}


def test_what_is_derived_or_never_read_may_be_there_and_is_not_read(folder, tmp_path):
    path = change(folder, tmp_path, **DERIVED)
    opened = open_checkpoint(path, Options(config=str(folder / "config.json")))
    assert same(opened.params, bundle_files.read(folder / "original").params)


def test_marks_without_numbers_say_what_is_predicted_and_how_the_schedule_ends(folder, tmp_path):
    mark = np.zeros(0, np.float32)
    options = Options(config=str(folder / "config.json"))
    plain = open_checkpoint(folder / "c.ckpt", options)
    opened = open_checkpoint(change(folder, tmp_path, v_pred=mark, ztsnr=mark), options)
    assert opened.config["prediction_type"] == "v" and plain.config["prediction_type"] == "eps"
    assert opened.config["schedule"] == plain.config["schedule"] | {"zero_terminal_snr": True}
    assert opened.config["sampling"] == plain.config["sampling"] | {"spacing": "trailing"}
    assert same(opened.params, bundle_files.read(folder / "original").params)
    said = open_checkpoint(tmp_path / "changed.ckpt", options._replace(prediction_type="eps"))
    assert said.config["prediction_type"] == "eps"
    with pytest.raises(ValueError, match=r"edm_vpred\.sigma_max .*EDM"):
        open_checkpoint(change(folder, tmp_path, edm_vpred__sigma_max=mark), options)


def test_names_of_a_module_that_torch_compiled_are_the_modules(folder, tmp_path):
    state = {k: t.read() for k, t in files.open_tensors(folder / "c.ckpt").items()}
    unet = [k for k in state if k.startswith(recognize.UNET)]
    for k in unet:  # the running averages of a compiled UNet have its names too, without their dots
        state[
            "model_ema." + k.removeprefix("model.").replace("model.", "model_orig_mod").replace(".", "")
        ] = state[k] + 1
    wrapped = {k.replace("diffusion_model.", "diffusion_model._orig_mod."): a for k, a in state.items()}
    wrapped = {k.replace("first_stage_model.", "_orig_mod.first_stage_model."): a for k, a in wrapped.items()}
    assert "model_ema.diffusion_model_orig_modinput_blocks00weight" in wrapped
    files.write_ckpt(tmp_path / "compiled.ckpt", wrapped)
    options = Options(config=str(folder / "config.json"))
    raw = open_checkpoint(tmp_path / "compiled.ckpt", options._replace(ema=False))
    assert same(raw.params, bundle_files.read(folder / "original").params)
    averaged = open_checkpoint(tmp_path / "compiled.ckpt", options)
    kernel = state[recognize.UNET + "input_blocks.0.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(averaged.params["unet"]["conv_in"]["kernel"].read(), kernel + 1)
    shutil.copytree(folder / "d", tmp_path / "d")
    written = tmp_path / "d" / "unet" / "diffusion_pytorch_model.safetensors"
    names = {f"_orig_mod.{k}": t.read() for k, t in files.open_tensors(written).items()}
    files.write_safetensors(written, names)
    assert same(open_checkpoint(tmp_path / "d").params, bundle_files.read(folder / "original").params)


def test_a_missing_first_stage_can_come_from_elsewhere(folder, tmp_path):
    state = {
        k: t
        for k, t in files.open_tensors(folder / "c.ckpt").items()
        if not k.startswith("first_stage_model.")
    }
    files.write_ckpt(tmp_path / "half.ckpt", state)
    options = Options(config=str(folder / "config.json"))
    with pytest.raises(ValueError, match="holds no first stage .*--first_stage"):
        open_checkpoint(tmp_path / "half.ckpt", options)
    opened = open_checkpoint(tmp_path / "half.ckpt", options._replace(first_stage=str(folder / "d" / "vae")))
    assert same(opened.params["first_stage"], bundle_files.read(folder / "original").params["first_stage"])


def test_a_yaml_says_nothing_of_sampling_so_the_kind_does(folder, tmp_path):
    given = bundle_files.read_config(folder / "original")
    shapes = {name: t.shape for name, t in files.open_tensors(folder / "c.ckpt").items()}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in given.items() if k != "sampling"}))
    options = Options(config=str(tmp_path / "config.json"))
    config, _ = recognize.diffusion_config(shapes, folder / "c.ckpt", options)
    assert config["sampling"] == dict(num_steps=50, guidance_scale=7.5)


def test_a_text_encoder_that_is_missing_is_missed(folder, tmp_path):
    state = {
        k: t
        for k, t in files.open_tensors(folder / "c.ckpt").items()
        if not k.startswith("cond_stage_model.")
    }
    files.write_ckpt(tmp_path / "half.ckpt", state)
    given = bundle_files.read_config(folder / "original") | dict(conditioning=None)
    (tmp_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=r"holds no conditioner .* wants a context of width 64"):
        open_checkpoint(tmp_path / "half.ckpt", Options(config=str(tmp_path / "config.json")))


def test_a_measured_scale_of_latents_goes_round(folder, tmp_path):
    opened = open_checkpoint(folder / "b")
    measured = opened._replace(config=opened.config | dict(scale_factor=0.31))
    write.write(measured, tmp_path / "m.ckpt", "compvis")
    assert "scale_factor" not in files.open_tensors(
        tmp_path / "m.ckpt"
    )  # a name that the original does not know
    assert (
        open_checkpoint(tmp_path / "m.ckpt").config["scale_factor"] == 0.31
    )  # from the config beside the file
    tensors = {name: t.read() for name, t in files.open_tensors(tmp_path / "m.ckpt").items()}
    files.write_ckpt(
        tmp_path / "by_std.ckpt", tensors | {"scale_factor": np.float32(0.37)}
    )  # with scale_by_std it does
    by_std = open_checkpoint(tmp_path / "by_std.ckpt", Options(config=str(folder / "config.json")))
    assert by_std.config["scale_factor"] == pytest.approx(0.37, rel=1e-7)
    write.write(by_std, tmp_path / "again.ckpt", "compvis")
    assert files.open_tensors(tmp_path / "again.ckpt")["scale_factor"].read() == np.float32(0.37)


def test_stable_diffusion_2_as_diffusers_and_later_code_have_it(tmp_path):
    tower = dict(CLIP, activation="gelu", projection_dim=None)
    opened = dict(name="clip", layer="penultimate", final_norm=True, **tower)
    bundle_files.save(tmp_path / "b", stable_diffusion_1(tmp_path / "vocabulary", conditioning=opened))
    checkpoint = open_checkpoint(tmp_path / "b")
    write.write(checkpoint, tmp_path / "c.safetensors", "compvis")
    state = {k: t.read() for k, t in files.open_tensors(tmp_path / "c.safetensors").items()}
    assert "cond_stage_model.model.text_projection" not in state
    later = {
        k.replace("cond_stage_model.model.", "conditioner.embedders.0.model."): v for k, v in state.items()
    }
    (tmp_path / "config.json").write_text(json.dumps(checkpoint.config))
    files.write_safetensors(tmp_path / "later.safetensors", later)
    for name in ("c", "later"):
        again = open_checkpoint(
            tmp_path / f"{name}.safetensors", Options(config=str(tmp_path / "config.json"))
        )
        assert same(again.params, bundle_files.read(tmp_path / "b").params)


def test_a_bare_autoencoder_of_diffusers_is_read_from_its_shapes(folder, tmp_path):
    tensors = files.open_tensors(folder / "d" / "vae")
    files.write_safetensors(tmp_path / "vae.safetensors", tensors)
    opened = open_checkpoint(tmp_path / "vae.safetensors")
    assert same(opened.params["first_stage"], bundle_files.read(folder / "original").params["first_stage"])
    assert opened.config["scale_factor"] == 1.0 and any("1.0 is assumed" in note for note in opened.notes)


def test_a_bundle_takes_a_tokenizer_and_says_the_rest_itself(folder, tmp_path):
    shutil.copytree(folder / "b", tmp_path / "b")
    (tmp_path / "b" / "tokenizer.json").unlink()
    assert open_checkpoint(tmp_path / "b").tokenizer is None
    opened = open_checkpoint(tmp_path / "b", Options(tokenizer=str(folder / "vocabulary")))
    original = bundle_files.read(folder / "original")
    assert opened.tokenizer.encode("red circle").ids == original.tokenizer.encode("red circle").ids
    with pytest.raises(ValueError, match="--prediction_type: a bundle has its own config"):
        open_checkpoint(folder / "b", Options(prediction_type="v"))


def test_the_variant_is_taken_where_a_part_has_it_and_what_is_wrong_with_it_is_said(folder, tmp_path):
    shutil.copytree(folder / "d", tmp_path / "d")
    weights = tmp_path / "d" / "unet" / "diffusion_pytorch_model.safetensors"
    other = weights.with_name("diffusion_pytorch_model.fp16.safetensors")
    state = {name: tensor.read() + 1 for name, tensor in files.open_tensors(weights).items()}
    files.write_safetensors(other, state)
    options = Options(variant="fp16")
    opened, original = open_checkpoint(tmp_path / "d", options), open_checkpoint(tmp_path / "d")
    bias = [o.params["unet"]["conv_out"]["bias"].read() for o in (opened, original)]
    np.testing.assert_array_equal(bias[0], bias[1] + 1)
    # the autoencoder has no such variant
    assert same(opened.params["first_stage"], bundle_files.read(folder / "original").params["first_stage"])
    other.write_bytes(other.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"model\.fp16\.safetensors"):
        open_checkpoint(tmp_path / "d", options)


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_converts_and_says_what_it_read(folder, tmp_path, capsys):
    convert.main([str(folder / "b"), str(tmp_path / "half"), "--to", "bundle", "--dtype", "float16"])
    out, err = capsys.readouterr()
    lines = err.split("\r")[1:]  # no more than one for each hundredth, and one line when it is done
    assert len(lines) <= 101 and "percent of " in lines[0] and "100/100" in lines[-1] and err.count("\n") == 1
    assert "unet: " in out and "conditioning clip, prediction_type eps" in out and "written as bundle" in out
    half = files.open_tensors(tmp_path / "half")
    full = files.open_tensors(folder / "b")
    assert {t.dtype for t in half.values()} == {np.dtype("float16")}
    name = "unet/conv_in/kernel"
    np.testing.assert_array_equal(half[name].read(), full[name].read().astype(np.float16))
    convert.main([str(folder / "d"), "--inspect"])
    assert "a diffusers StableDiffusionPipeline" in capsys.readouterr().out


def test_an_existing_destination_is_kept_unless_told_and_until_the_new_one_is_whole(
    folder, tmp_path, monkeypatch
):
    convert.main([str(folder / "b"), str(tmp_path / "out")])
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="exists: name another destination, or say --overwrite"):
        convert.main([str(folder / "b"), str(tmp_path / "out")])

    def fails(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(bundle_files, "write_texts", fails)
    with pytest.raises(OSError, match="No space left"):
        convert.main([str(folder / "b"), str(tmp_path / "out"), "--overwrite", "--dtype", "float16"])
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{b}"], "name DST, or --inspect without it"),
        (["{b}", "x", "--inspect"], "name DST, or --inspect without it"),
        (["{b}", "{b}"], "holds SRC"),
        (["{b}", "{b}/.."], "holds SRC"),
        (["{b}", "x", "--ema", "--raw"], "--ema and --raw: name one"),
        (["{b}", "x.bin", "--to", "compvis"], r"x\.bin should end in \.safetensors or \.ckpt"),
    ],
)
def test_arguments_that_do_not_go_together(folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        convert.main([a.format(b=folder / "b") for a in arguments])


def test_a_folder_of_a_flax_pipeline_is_read_as_pytorchs(folder, tmp_path, monkeypatch):
    shutil.copytree(folder / "d", tmp_path / "d")
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 2000)  # 2**30 there: arrays beyond it are in chunks
    make_flax(tmp_path / "d")
    opened, original = open_checkpoint(tmp_path / "d").bundle(), open_checkpoint(folder / "d").bundle()
    first = flatten(original.params.pop("first_stage"))
    rounded = {k: np.asarray(v).astype(ml_dtypes.bfloat16).astype(np.float32) for k, v in first.items()}
    assert same(opened.params.pop("first_stage"), unflatten(rounded))
    assert same(opened.params, original.params) and opened.config == original.config
    weights = tmp_path / "d" / "unet" / "diffusion_flax_model.msgpack"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="diffusion_flax_model.msgpack cannot be read as msgpack"):
        open_checkpoint(tmp_path / "d")
