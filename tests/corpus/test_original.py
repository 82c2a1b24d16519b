"""Tiny models in the original's layout, one for each conditioning key and option: opened, they give what PyTorch gives,
and written back they have exactly the names and shapes that they came with. tests/corpus/original/README.md says where
they are from."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from ldm_jax.checkpoints import write as export
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.config import conditioning_kinds
from ldm_jax.convert import files, original_config, original_yaml
from ldm_jax.diffusion import process, timesteps
from ldm_jax.inference.pipeline import LatentDiffusion
from ldm_jax.samplers import base, ddim
from ldm_jax.system import make_system
from tests.corpus.original import rule
from tests.golden.rule import nchw, nhwc

torch = pytest.importorskip("torch")

from tests.corpus.original import make  # noqa: E402
from tests.corpus.original.torch_ldm import LatentDiffusion as Original  # noqa: E402
from tests.corpus.original.torch_ldm import make_tables  # noqa: E402

FOLDER = Path(__file__).parent / "original"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/config.yaml"))
QUICK = ("unconditional_heads_upsample", "hybrid_class")
ANSWERED = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


def params_of(name: str) -> dict:
    return yaml.safe_load((FOLDER / name / "config.yaml").read_text())["model"]["params"]


def shapes_of(name: str) -> dict[str, tuple]:
    """{name: shape} of the whole file."""
    lines = [line.split() for line in (FOLDER / name / "names.txt").read_text().splitlines()]
    return rule.with_averages({name: tuple(map(int, shape)) for name, *shape in lines})


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """name -> the model's file, with its YAML beside it."""

    def written(name: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"original_{name}"
        if not folder.is_dir():
            folder.mkdir()
            (folder / "config.yaml").write_text((FOLDER / name / "config.yaml").read_text())
            tables = make_tables(params_of(name))
            tensors = {n: rule.tensor(n, shape, tables) for n, shape in shapes_of(name).items()}
            files.write_ckpt(folder / "model.ckpt", tensors)
        return folder / "model.ckpt"

    return written


def nothing_in(params: dict) -> Original:
    """The original's model, which takes no time as it has no numbers."""
    with torch.device("meta"):
        return Original(params)


def shapes_in(path: Path) -> dict[str, tuple]:
    return {name: tensor.shape for name, tensor in files.open_tensors(path).items()}


def test_the_corpus_is_what_its_script_makes():
    assert set(NAMES) == set(make.MODELS)
    for name, (section, _) in make.MODELS.items():
        assert params_of(name) == section["params"], name


@pytest.mark.parametrize("name", NAMES)
def test_written_back_it_has_the_names_and_shapes_that_it_came_with(name, write, tmp_path):
    opened = open_checkpoint(write(name))
    export.write(opened, tmp_path / "again.ckpt", "compvis")
    assert shapes_in(tmp_path / "again.ckpt") == shapes_of(name)
    # and so it has by way of a bundle, which keeps nothing that is no part of the model
    export.write(opened, tmp_path / "bundle", "bundle")
    export.write(open_checkpoint(tmp_path / "bundle"), tmp_path / "third.ckpt", "compvis")
    without = {"first_stage_model.colorize"}
    assert shapes_in(tmp_path / "third.ckpt") == {
        n: s for n, s in shapes_of(name).items() if n not in without
    }


@pytest.mark.parametrize("name", ["unconditional_codebook_ids", "concat_inpaint", "crossattn_layout"])
def test_what_is_written_loads_strictly_and_samples_with_its_averages(name, write, tmp_path):
    opened = open_checkpoint(write(name))
    export.write(opened, tmp_path / "again.ckpt", "compvis")
    state = torch.load(tmp_path / "again.ckpt", weights_only=True)["state_dict"]
    original = nothing_in(params_of(name))
    original.load_state_dict(state, strict=True, assign=True)
    weights = {n: p.clone() for n, p in original.model.named_parameters()}
    original.use_averages()  # as its ema_scope does
    for parameter, tensor in original.model.named_parameters():
        assert torch.equal(tensor, weights[parameter]), parameter
    average = "model_ema.diffusion_modelinput_blocks00weight"
    came = rule.tensor(average, shapes_of(name)[average], {})
    kernel = original.model.diffusion_model.input_blocks[0][0].weight
    np.testing.assert_array_equal(kernel.detach(), came)


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_that_is_written_beside_it_says_the_same_model(name, write):
    config = open_checkpoint(write(name)).config
    section = original_yaml.model_section(config)
    again = original_config.config(section)
    for entry in (
        "first_stage",
        "schedule",
        "prediction_type",
        "scale_factor",
        "image_size",
        "conditioning",
        "original",
    ):
        if entry == "conditioning":  # dropout of embeddings is not asked for
            assert conditioning_kinds(again[entry]).keys() == conditioning_kinds(config[entry]).keys()
        else:
            assert again[entry] == config[entry], entry
    network = make_system(config | dict(model=again["model"])).unet
    assert network == make_system(config).unet
    original = nothing_in(section["params"])
    assert {n: tuple(t.shape) for n, t in original.state_dict().items()} == {
        n: s for n, s in shapes_of(name).items() if not n.endswith(".colorize")
    }


def test_a_noise_schedule_of_its_own_is_told(write, tmp_path):
    path = write("unconditional_heads_upsample")
    tensors = {name: tensor.read() for name, tensor in files.open_tensors(path).items()}
    assert not any("alphas_cumprod" in note for note in open_checkpoint(path).notes)
    (tmp_path / "config.yaml").write_text((path.parent / "config.yaml").read_text())
    for table, told in [
        (tensors["alphas_cumprod"].astype(np.float16), False),
        (tensors["alphas_cumprod"] ** 2, True),
    ]:
        files.write_ckpt(tmp_path / "model.ckpt", tensors | {"alphas_cumprod": table})
        notes = [note for note in open_checkpoint(tmp_path / "model.ckpt").notes if "alphas_cumprod" in note]
        assert bool(notes) == told and all(
            "from 0.997 to 2.025e-08 in 1000 steps" in note for note in notes
        ), notes


def test_use_ema_false_means_the_weights_as_in_the_original(write, tmp_path):
    path = write("unconditional_heads_upsample")
    (tmp_path / "model.ckpt").symlink_to(path)
    section = yaml.safe_load((path.parent / "config.yaml").read_text())
    section["model"]["params"]["use_ema"] = False
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(section))
    came = files.open_tensors(path)
    for opened, name in [
        (open_checkpoint(tmp_path / "model.ckpt"), "model.diffusion_model.input_blocks.0.0.weight"),
        (open_checkpoint(path), "model_ema.diffusion_modelinput_blocks00weight"),
    ]:
        kernel = opened.params["unet"]["conv_in"]["kernel"].read()
        np.testing.assert_array_equal(kernel, came[name].read().transpose(2, 3, 1, 0))


def test_an_autoencoder_alone_keeps_what_is_no_part_of_it(write, tmp_path):
    tensors = files.open_tensors(write("unconditional_codebook_ids"))
    state = {
        n.removeprefix("first_stage_model."): t.read()
        for n, t in tensors.items()
        if n.startswith("first_stage_model.")
    }
    beside = {
        "loss.logvar": np.float32(0.5),
        "quantize.used": np.arange(5),
        "model_ema.decay": np.float32(0.99),
    }
    beside |= {
        "model_ema.encoderconv_inweight": state["encoder.conv_in.weight"],
        "colorize": np.ones((3, 5, 1, 1), np.float32),
    }
    files.write_ckpt(tmp_path / "vq.ckpt", state | beside)
    export.write(open_checkpoint(tmp_path / "vq.ckpt"), tmp_path / "again.ckpt", "compvis")
    again = files.open_tensors(tmp_path / "again.ckpt")
    assert {n: t.shape for n, t in again.items()} == {n: a.shape for n, a in (state | beside).items()}
    for name, array in (state | beside).items():
        np.testing.assert_array_equal(again[name].read(), array, name)


def error(got, wanted) -> float:
    return float(np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", ANSWERED)
def test_it_gives_what_pytorch_gives(name, write):
    bundle, params, wanted = open_checkpoint(write(name)).bundle(), params_of(name), make.MODELS[name][1]
    system, expected = make_system(bundle.config), np.load(FOLDER / name / "expected.npz")
    asked = make.questions(params)
    z = jax.jit(system.first_stage.mode)(bundle.params["first_stage"], nhwc(asked["x"]))
    assert error(nchw(z), expected["z"]) < 1e-4
    recon = jax.jit(system.first_stage.decode)(bundle.params["first_stage"], nhwc(expected["z"]))
    assert error(nchw(recon), expected["recon"]) < 1e-4

    cond = system.condition(bundle.params, encoded(system, bundle, given(wanted)))
    network = jax.jit(lambda x, t: system.unet.apply({"params": bundle.params["unet"]}, x, t, cond))
    x = jnp.asarray(nhwc(asked["z_t"]))
    assert error(nchw(network(x, jnp.asarray(asked["t"]))), expected["prediction"]) < 1e-4
    if "sample" in expected:

        def model_fn(x, t, control=None):
            return network(x, t), {}

        eps_fn = process.to_eps_fn(model_fn, system.schedule, system.prediction_type)
        sampler = ddim.sampler(system.schedule)
        visited = timesteps.make_timesteps("uniform", system.schedule.num_timesteps, 4)
        infos = base.step_infos(visited, jax.random.key(0))
        state = sampler.init(x)
        for i in range(len(visited)):
            state, x, _ = sampler.step(eps_fn, state, x, jax.tree.map(lambda a, i=i: a[i], infos))
        assert error(nchw(x), expected["sample"]) < 1e-4


def given(wanted: dict) -> dict:
    """The conditions as a user of this package gives them."""
    return {k: nhwc(v) if v.ndim == 4 else v for k, v in make.conditions(wanted).items()}


def encoded(system, bundle, values: dict) -> dict:
    inputs = system.inputs(values)
    return system.encode_inputs(bundle.params["first_stage"], bundle.config["scale_factor"], inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid_class", "adm_continuous"])
def test_it_draws_pictures(name, write):
    bundle = open_checkpoint(write(name)).bundle()
    model = LatentDiffusion(
        make_system(bundle.config), bundle.params, bundle.config["scale_factor"], bundle.config
    )
    drawn = partial(model.sample, num_steps=2, seeds=[0, 1])(**given(make.MODELS[name][1]))
    assert drawn.shape == (2, make.SIDE, make.SIDE, 3) and drawn.dtype == np.uint8 and drawn.std() > 1


def test_codebook_ids_are_predicted_and_not_sampled_from(write):
    bundle = open_checkpoint(write("unconditional_codebook_ids")).bundle()
    model = LatentDiffusion(make_system(bundle.config), bundle.params, 1.0, bundle.config)
    with pytest.raises(ValueError, match=r"logits of 24 codes \(n_embed\), expected 3 channels of noise"):
        model.sample(seeds=[0], num_steps=2)
