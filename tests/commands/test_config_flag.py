"""--config.KEY=VALUE: every list of every config in both spellings, keys that are None, and what is refused."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from ldm_jax.commands.config_flag import read_config
from ldm_jax.config import config_names, load_config, make_config
from ldm_jax.training import program


def lists(section: ConfigDict, prefix: str = "") -> dict[str, list]:
    """{dotted key: the list under it}."""
    found = {}
    for name, value in section.items():
        if not name.isidentifier():  # such as delta/words, which no flag can spell
            continue
        if isinstance(value, ConfigDict):
            found |= lists(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            found[f"{prefix}{name}"] = value
    return found


def value_of(config: dict, key: str):
    for name in key.split("."):
        config = config[name]
    return config


@pytest.mark.parametrize("name", [f"{name}{arg}" for name in config_names() for arg in ("", ":runlocal")])
def test_every_list_of_every_config_can_be_set(name):
    found = lists(make_config(name))
    turned = {key: value[::-1] + value[:1] for key, value in found.items()}  # one longer, in another order
    spelled = {
        "with brackets": [f"--config.{key}={value!r}" for key, value in turned.items()],
        "without": [f"--config.{key}={repr(value)[1:-1]}" for key, value in turned.items()],
    }
    for argv in spelled.values():
        config = read_config(["--config", name, *argv])
        assert {key: value_of(config, key) for key in turned} == turned
    if name.startswith("sd1:"):
        assert {"model.channel_mult", "freeze", "conditioning.tokenizer.words"} <= found.keys()


def test_a_key_that_no_flag_can_spell():
    with pytest.raises(
        ValueError, match="--config.optimizer.parts.delta/words: expected names between the dots"
    ):
        read_config(["--config", "break_a_scene", "--config.optimizer.parts.delta/words=[[0, 1.0]]"])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.channel_mult", "1,2,3", [1, 2, 3]),
        ("model.channel_mult", "[0,1]", [0, 1]),
        ("model.channel_mult", "(1, 2)", [1, 2]),
        ("model.channel_mult", "4", [4]),
        ("model.channel_mult[0]", "7", [7, 2, 4, 4]),
        ("model.attention_levels", "", []),
        ("freeze", "unet,conditioner", ["unet", "conditioner"]),
        ("freeze", "[unet]", ["unet"]),
        ("optimizer.schedule.f_start", "1", [1]),
    ],
)
def test_a_list_as_it_is_typed(key, text, value):
    config = read_config(["--config", "sd1", f"--config.{key}={text}"])
    assert value_of(config, key.partition("[")[0]) == value
    if "[" not in key:
        assert config == read_config(["--config", "sd1", f"--config.{key}", text])
    untouched = load_config("sd1")
    assert (
        config["batch_size"] == untouched["batch_size"] and config["first_stage"] == untouched["first_stage"]
    )


def test_bools_are_written_as_flags_write_them():
    flag = "--config.model.disable_self_attention=true,false,False,True"
    config = read_config(["--config", "sd_x4_upscaler", flag])
    assert config["model"]["disable_self_attention"] == [True, False, False, True]


@pytest.mark.parametrize(
    ("name", "key", "text", "value"),
    [
        ("kl_f4", "ema_decay", "0.99", 0.99),
        ("lsun_churches_ldm8", "scale_factor", "0.2", 0.2),
        ("sd1:runlocal", "first_stage_from", "runs/kl_f8", "runs/kl_f8"),
        ("sdxl_refiner", "conditioning.clip_l", "{'width': 8}", {"width": 8}),
    ],
)
def test_a_key_that_is_none_takes_any_value(name, key, text, value):
    assert value_of(load_config(name), key) is None
    assert value_of(read_config(["--config", name, f"--config.{key}={text}"]), key) == value


def test_none_unsets_a_text():
    assert load_config("shapes_class")["init_from"] == "shapes"
    for text, value in (("None", None), ("", ""), ("none", "none")):
        assert read_config(["--config", "shapes_class", f"--config.init_from={text}"])["init_from"] == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config.model.channel_mult=1,b"], r"channel_mult: got \[1, 'b'\], expected .* \[1, 2, 4, 4\]"),
        (["--config.model.channel_mult=1.5"], r"channel_mult: got \[1.5\], expected"),
        (["--config.model.channel_mult=true"], r"channel_mult: got \[True\], expected"),
        (["--config.model.channel_mult=[1,2"], "channel_mult=.1,2: expected a list, such as 1,2,3"),
        (["--config.model.channel_mult=1,2]"], "channel_mult=1,2.: expected a list, such as 1,2,3"),
        (["--config.model.channel_mult[9]=1"], "index out of range"),
        (["--config.model.chanel_mult=1"], "no 'chanel_mult' in config.model; did you mean channel_mult?"),
        (["--config.modell.channels=1"], "no 'modell' in config; did you mean model?"),
        (["--config.model.channels.x=1"], "no 'x' in config.model.channels; it has no keys"),
        (["--config.batch_size=x"], "--config.batch_size=x: invalid literal"),
    ],
)
def test_what_is_refused_is_named(argv, message):
    with pytest.raises(ValueError, match=message):
        read_config(["--config", "sd1", *argv])


def test_any_option_of_the_optimizer_and_its_schedule_can_be_set():
    """configs/shapes_class.py names none of these, and its schedule ends with the run."""

    def rate(*flags):
        config = read_config(["--config", "shapes_class", *flags])
        return config["optimizer"], program.make_optimizer(config, 1)[1]

    section, at = rate(
        "--config.optimizer.accumulate=2", "--config.optimizer.b1=0.8", "--config.total_steps=40"
    )
    assert section["accumulate"] == 2 and section["b1"] == 0.8
    # 20 optimizer steps do not leave the warm-up of 200
    np.testing.assert_allclose([at(0), at(20)], [0, 1e-4], rtol=1e-6)
    _, at = rate("--config.total_steps=2200")
    np.testing.assert_allclose([at(200), at(1200), at(2200)], [1e-3, 0.525e-3, 0.05e-3], rtol=1e-5)
    _, at = rate("--config.total_steps=2200", "--config.optimizer.schedule.num_steps=1200")
    np.testing.assert_allclose([at(700), at(1200), at(2200)], [0.525e-3, 0.05e-3, 0.05e-3], rtol=1e-5)
    with pytest.raises(
        ValueError,
        match=r"no 'acumulate' in config.optimizer; did you mean accumulate\? it has: accumulate, b1, b2",
    ):
        rate("--config.optimizer.acumulate=2")
    with pytest.raises(ValueError, match="accumulate: got 'two', expected a whole number of at least 1"):
        rate("--config.optimizer.accumulate=two")
    with pytest.raises(ValueError, match="optimizer 'adam' has no option 'weight_decay'; it has: base_lr"):
        rate("--config.optimizer.name=adam", "--config.optimizer.weight_decay=0.1")


@pytest.mark.parametrize(
    ("name", "argv", "key", "value"),
    [
        ("folder_ldm4", ["--config.data.holdout=0.1"], "data.holdout", 0.1),
        ("folder_ldm4", ["--config.condition_dropout=0.2"], "condition_dropout", 0.2),
        ("folder_ldm4", ["--config.freeze=unet/conv_in"], "freeze", ["unet/conv_in"]),
        ("folder_ldm4", ["--config.model.context_dim=64"], "model.context_dim", 64),
        ("folder_ldm4", ["--config.data.aspect_buckets", "5"], "data.aspect_buckets", 5),
        ("kl_f4", ["--config.optimizer.accumulate=4"], "optimizer.accumulate", 4),
        ("sd1", ["--config.holdout_every=100"], "holdout_every", 100),
        (
            "folder_ldm4",
            ["--config.conditioning.num_classes=9", "--config.conditioning.name=class_label"],
            "conditioning",
            {"name": "class_label", "num_classes": 9},
        ),
        (
            "imagenet_ldm4",
            ["--config.data.name=webdataset", "--config.data.root=x", "--config.data.caption_key=txt"],
            "data",
            {"name": "webdataset", "split": "train", "recipe": "imagenet", "root": "x", "caption_key": "txt"},
        ),
    ],
)
def test_options_that_a_config_leaves_out_can_be_set_where_they_make_sense(name, argv, key, value):
    assert value_of(read_config(["--config", name, *argv]), key) == value


@pytest.mark.parametrize(
    ("name", "flag", "said"),
    [
        ("kl_f4", "condition_dropout=0.1", "no 'condition_dropout' in config; "),
        ("folder_ldm4", "discriminator.num_layers=1", "no 'discriminator' in config; "),
        ("folder_ldm4", "data.dataset=x", "no 'dataset' in config.data; it has: aspect_buckets, caption_key, derive"),
        ("folder_ldm4", "data.name=fodler", "data source 'fodler' not found; .* did you mean 'folder'"),
        ("folder_ldm4", "conditioning.num_classes=9", "no 'num_classes' in config.conditioning; it has: name"),
    ],
)  # fmt: skip
def test_options_that_make_none_are_answered_with_those_there_are(name, flag, said):
    with pytest.raises(ValueError, match=said):
        read_config(["--config", name, f"--config.{flag}"])
