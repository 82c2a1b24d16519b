"""Programs of whole configs, and the sentences about those that do not fit.

The compiling tests are slow: python -m pytest -m slow tests/commands/test_dry_run.py
"""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from configs import shapes_kl_f4, shapes_text
from ldm_jax.commands import dry_run
from ldm_jax.distributed import parallel
from ldm_jax.inference.settings import resolve_settings
from ldm_jax.system import make_system
from ldm_jax.training import program as training_program
from ldm_jax.xla.tpu_slices import GIB

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'ldm_jax[tpu]'"
)


def second_stage(**changes) -> dict:
    config = shapes_text.get_config("runlocal").to_dict()
    config["model"] |= dict(
        channels=8, channel_mult=[1], attention_levels=[0], num_groups=4, head_dim=4, context_dim=8
    )
    config["conditioning"] |= dict(width=8, num_layers=1, num_heads=2, head_dim=4)
    return config | dict(batch_size=8) | changes


def first_stage(**changes) -> dict:
    config = shapes_kl_f4.get_config("runlocal").to_dict()
    config["first_stage"] |= dict(channels=8, channel_mult=[1, 1], num_res_blocks=1, num_groups=4)
    return config | dict(batch_size=8, image_size=32) | changes


@pytest.mark.parametrize("make", [first_stage, second_stage])
def test_a_step_gives_the_state_it_was_given(make):
    config = make()
    placement = parallel.make("pmap", devices=jax.devices()[:1])
    program = training_program.make_training_program(config, placement)
    step = placement.compile(program.step, program.state, program.frozen)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    state, metrics = jax.eval_shape(step, program.state, program.frozen, program.batch, seed)

    def shapes(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert shapes(state) == shapes(program.state)
    assert metrics["gradient_norm"].shape == ()


def test_flops_of_training_are_three_passes_of_what_is_trained():
    config = second_stage()
    system = make_system(config)
    parts = dry_run.forward_flops(system, 8)
    assert set(parts) == {"unet", "encode", "decode", "text"}
    config["data"]["precompute_latents"] = True
    assert dry_run.training_flops(config) == 3 * (parts["unet"] + parts["text"])
    config["data"]["precompute_latents"] = False
    assert dry_run.training_flops(config) == 3 * (parts["unet"] + parts["text"]) + parts["encode"]
    frozen = dict(config, freeze=["conditioner"])
    assert dry_run.training_flops(frozen) == 3 * parts["unet"] + parts["text"] + parts["encode"]
    # As many as the first convolution of the UNet by hand, 3 x 3 from 4 to 8 channels at 16 x 16, and more.
    h, w, c = system.latent_shape
    inner = (3 * h - 2) * (3 * w - 2)
    assert parts["unet"] > 8 * 2 * inner * c * 8


REPORT = dict(
    topology="v5e:4x4",
    chips=16,
    fits=False,
    parallelism=dict(way="pmap", mesh=dict(devices=16)),
    state_bytes=14 * GIB,
    hbm=dict(capacity=int(15.75 * GIB), arguments=15 * GIB, peak=20 * GIB),
)


def test_what_does_not_fit_says_what_to_change():
    config = dict(task="diffusion", dtype="float32", model={}, batch_size=64)
    with pytest.raises(ValueError) as caught:
        dry_run.check_fits(REPORT, config)
    said = str(caught.value)
    assert said.startswith("the training step does not fit v5e:4x4: it needs 20.0 GiB on each chip, of which")
    assert "a v5e chip has 15.75" in said and "\n" not in said
    for remedy in ("parallelism=fsdp", "0.9)", "dtype=bfloat16", "remat=full", "batch_size=32", "accumulate"):
        assert remedy in said


def test_remedies_that_are_taken_are_not_named_again():
    config = dict(task="diffusion", dtype="bfloat16", model=dict(remat="full"), batch_size=16)
    report = REPORT | dict(parallelism=dict(way="fsdp", mesh=dict(data=1, fsdp=16)))
    with pytest.raises(ValueError, match="; try a slice with more chips, or chips with more memory$"):
        dry_run.check_fits(report, config)


def test_sampling_that_does_not_fit_and_what_fits():
    program = {k: REPORT[k] for k in ("topology", "chips", "fits", "hbm")}
    with pytest.raises(ValueError, match="^decoding does not fit v5e:4x4: .*; try a smaller --batch_size$"):
        dry_run.check_fits(dict(latents=program | dict(fits=True), decode=program))
    dry_run.check_fits(REPORT | dict(fits=True), {})


@needs_libtpu
def test_a_batch_that_the_slice_does_not_divide():
    with pytest.raises(
        ValueError, match="batch_size 8 is not divided by the 16 devices; the nearest that is: 16"
    ):
        dry_run.training(second_stage(), "v5e-16")


@pytest.mark.slow
@needs_libtpu
def test_both_ways_of_training_compile_for_a_slice():
    reports = {}
    for way in parallel.WAYS:
        config = second_stage(dtype="bfloat16", parallelism=way)
        if way == "fsdp":
            config["mesh"] = dict(data=2, fsdp=2, replicate_below=16)
        reports[way] = dry_run.training(config, "v5e:2x2")
        dry_run.check_fits(reports[way], config)
    pmap, fsdp = reports["pmap"], reports["fsdp"]
    assert pmap["chips"] == fsdp["chips"] == 4 and 0 < pmap["mfu_bound"] < 1
    assert "all-gather" not in pmap["collectives"] and "all-reduce" in pmap["collectives"]
    assert "all-gather" in fsdp["collectives"]
    assert fsdp["state_bytes"] < 0.7 * pmap["state_bytes"]


@pytest.mark.slow
@needs_libtpu
def test_sampling_compiles_for_a_slice():
    config = second_stage(dtype="bfloat16")
    few, many = (
        dry_run.sampling(config, "v5e:2x2", 2, resolve_settings({}, num_steps=n, guidance_scale=2.0))
        for n in (2, 8)
    )
    assert few["batch_size"] == 8 and few["guided"]
    assert many["latents"]["model_flops"] > 3.5 * few["latents"]["model_flops"]
    assert many["latents"]["flops"] > 3 * few["latents"]["flops"]
    assert many["latents"]["collectives"] == {}
