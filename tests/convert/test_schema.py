"""What options of configs may be: every option that is read has a rule, every config there is keeps them, and what
breaks one is a sentence that names it."""

import inspect
import json

import pytest

from ldm_jax.config import config_names, load_config, options_of
from ldm_jax.convert import diffusers_networks, original_config, original_options, published, schema
from ldm_jax.convert.original_options import NetworkOptions
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.find import find, names
from ldm_jax.first_stage import FIRST_STAGES
from ldm_jax.inference.settings import FALLBACK
from ldm_jax.models.unet import UNet

GOOD = dict(
    task="diffusion",
    image_size=16,
    first_stage=dict(name="identity"),
    model=dict(in_channels=3, out_channels=3, channels=8, channel_mult=[1, 2], num_res_blocks=1),
    conditioning=dict(name="clip", width=8, num_layers=1, num_heads=2),
    schedule=dict(name="linear", num_timesteps=10),
)
LETTERS = list(zip("abcdefgh", "bcdefghi", strict=True))


def test_every_option_of_ours_has_a_rule():
    kinds = [find("conditioning", name).Conditioner for name in names("conditioning")]
    made = [UNet, make_schedule, *FIRST_STAGES.values(), *kinds]
    without = ({option for fn in made for option in options_of(fn)} | {*FALLBACK}) - schema.RULES.keys()
    assert not without, f"give them a rule in convert/schema.py: {without}"


def test_every_option_that_is_honored_has_a_rule():
    tables = [value for value in vars(original_options).values() if isinstance(value, NetworkOptions)]
    tables += original_options.CONDITIONERS.values()
    assert not {option for table in tables for option in table.honored} - schema.ORIGINAL.keys()
    theirs = (diffusers_networks._CONDITION, diffusers_networks._UNCONDITIONAL, diffusers_networks._VQ)
    assert not {option for table in theirs for option in table} - schema.DIFFUSERS.keys()


@pytest.mark.parametrize("name", config_names())
def test_the_configs_that_come_with_the_package_keep_the_rules(name):
    schema.check_config(load_config(name), name)


def test_released_models_keep_the_rules():
    for release in published.RELEASES.values():
        config = release.process() | dict(
            model={**release.match, **release.heads}, conditioning=dict(release.parts)
        )
        schema.check_config(config, "")


@pytest.mark.parametrize(
    "section, option, value, said",
    [
        (None, "image_size", "16", "image_size is '16', expected a whole number from 1 to 8192"),
        (None, "image_size", 10**6, "image_size is 1000000"),
        (None, "task", ["diffusion"], "task is"),
        (None, "model", [1], "model is .1., expected a section"),
        (None, "conditioning", dict(clip=5), "conditioning: clip is 5, expected a section"),
        (None, "conditioning", dict(name=5), "conditioning: name is 5"),
        ("model", "channels", 0, "model: channels is 0, expected a whole number from 1"),
        ("model", "channels", True, "model: channels is True"),
        ("model", "channels", float("nan"), "model: channels is nan"),
        ("model", "channel_mult", [1] * 17, "expected a list of at most 16"),
        ("model", "channel_mult", [1, [2]], "channel_mult"),
        ("model", "channel_mult", 2, "channel_mult"),
        ("model", "num_res_blocks", 10**9, "num_res_blocks is 1000000000"),
        ("model", "dropout", float("inf"), "dropout is inf"),
        ("model", "num_classes", "many", "num_classes is 'many'"),
        ("model", "remat", {}, "remat is {}"),
        ("schedule", "num_timesteps", 10**9, "num_timesteps is"),
        ("schedule", "beta_end", float("nan"), "beta_end is nan, expected a number from 0 to 1"),
        ("conditioning", "num_layers", 1000, "conditioning clip: num_layers is 1000"),
        ("conditioning", "clip_g", dict(width="x"), "clip_g: width is 'x'"),
        ("conditioning", "layer", "x" * 10**6, "layer is 'xxx"),
    ],
)
def test_an_option_of_another_kind_or_out_of_range_is_named(section, option, value, said):
    bad = dict(GOOD)
    if section is None:
        bad[option] = value
    else:
        bad[section] = dict(GOOD[section], **{option: value})
    with pytest.raises(ValueError, match=said) as error:
        schema.check_config(bad, "config a.json")
    assert str(error.value).startswith("config a.json") and len(str(error.value)) < 400


def test_the_depth_of_a_network_is_bounded():
    deep = dict(GOOD["model"], channel_mult=[1] * 8, num_res_blocks=8, transformer_depth=10)
    with pytest.raises(ValueError, match="a.json: model has 704 blocks, expected at most 400"):
        schema.check_config(dict(GOOD, model=deep), "a.json")
    with pytest.raises(ValueError, match="a.json: first_stage has 1024 blocks"):
        first = dict(name="kl", channel_mult=[1] * 16, num_res_blocks=64)
        schema.check_config(dict(GOOD, first_stage=first), "a.json")


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: &a [1, 1]\n" + "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in LETTERS),
         "more than 100000 values"),
        ("a: &a [*a]", "stands for what it is inside of"),
        ("[" * 10_000, "nested deeper than 64|maximum nesting depth"),
        ("a: " + "- " * 10_000 + "1", "not YAML"),
        ("a: 2001-99-99", "not YAML: month must be in"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("? [1]\n: 2", "not YAML"),
        ("a: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("a: 'x", "not YAML"),
        ("model: 3", "model.target is not there"),
        ("model: {target: 3}", "model has no target"),
        ("model: {target: x.LatentDiffusion, params: 3}", "is no config of the original"),
        ("model: {target: x.LatentDiffusion, params: {unet_config: 3, first_stage_config: {target: a.VQModel}}}",
         "unet_config is 3, expected a section"),
        ("model: {target: x.VQModel, params: {ddconfig: {ch: -1}, embed_dim: 3}}", "ch is -1, expected a whole number"),
        ("model: {target: x.VQModel, params: {ddconfig: {ch: 8, dropout: .nan}, embed_dim: 3}}", "dropout is nan"),
        ("x: " + "y" * 2**20, "bytes, expected at most 1048576"),
    ],
)  # fmt: skip
def test_a_yaml_that_is_no_config_of_the_original_is_one_sentence(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        original_config.read(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and len(message) < len(str(path)) + 300


def test_what_diffusers_writes_of_its_own_accord_is_taken():
    """The defaults of its classes, many of which are null, are in every config.json that it saves."""
    diffusers = pytest.importorskip("diffusers")
    kinds = [
        diffusers.UNet2DConditionModel, diffusers.UNet2DModel, diffusers.AutoencoderKL, diffusers.VQModel,
        diffusers.ControlNetModel, diffusers.DDIMScheduler, diffusers.DDPMScheduler, diffusers.PNDMScheduler,
        diffusers.LMSDiscreteScheduler, diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler,
        diffusers.EulerAncestralDiscreteScheduler, diffusers.DPMSolverMultistepScheduler, diffusers.LCMScheduler,
        diffusers.DPMSolverSinglestepScheduler, diffusers.UniPCMultistepScheduler, diffusers.TCDScheduler,
        diffusers.DEISMultistepScheduler, diffusers.KDPM2DiscreteScheduler,
    ]  # fmt: skip
    for kind in kinds:
        parameters = inspect.signature(kind.__init__).parameters.values()
        given = {p.name: p.default for p in parameters if p.default is not p.empty}
        schema.check(kind.__name__, json.loads(json.dumps(given)), schema.DIFFUSERS)
