"""Both spellings of a config's conditioning section mean the same, and a single kind's parameters are bare in both; a
config is found by its name, and configs find each other."""

import json
import pathlib
import shutil
import sys

import jax
import pytest

from ldm_jax import config as config_module
from ldm_jax.config import (
    by_kind,
    conditioning_kinds,
    conditioning_section,
    config_folder,
    config_names,
    find_config,
    load_config,
)
from ldm_jax.system import make_system

MODEL = dict(
    image_size=16,
    first_stage=dict(name="identity"),
    model=dict(in_channels=3, out_channels=3, channels=8, channel_mult=[1], num_res_blocks=1, num_groups=4),
    schedule=dict(name="linear", num_timesteps=4),
)
CLASSES, MAP = dict(num_classes=3, width=8), dict(num_classes=4, num_stages=0, out_channels=2)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (None, {}),
        ({}, {}),
        (dict(name="depth"), {"depth": {}}),
        (dict(name="class_label", **CLASSES), {"class_label": CLASSES}),
        (dict(class_label=CLASSES), {"class_label": CLASSES}),
        (dict(clip=dict(width=8), depth=None), {"clip": dict(width=8), "depth": {}}),
    ],
)
def test_kinds_of_either_spelling(section, expected):
    assert conditioning_kinds(section) == expected
    assert list(conditioning_kinds(section)) == list(expected)  # the order is that of the channels they add
    assert conditioning_kinds(conditioning_section(expected)) == expected


def test_one_kind_is_named_and_several_are_listed():
    assert conditioning_section({}) is None
    assert conditioning_section({"depth": {}}) == dict(name="depth")
    assert conditioning_section({"clip": {}, "depth": {}}) == {"clip": {}, "depth": {}}


@pytest.mark.parametrize(
    "section",
    [
        dict(name="class_label", **CLASSES),
        dict(class_label=CLASSES),
        dict(class_label=CLASSES, semantic=MAP),
        dict(class_label=CLASSES, inpaint={}),
    ],
    ids=["named", "listed", "two", "two of which one has parameters"],
)
def test_each_kinds_parameters_are_where_the_model_has_them(section):
    context = dict(attention_levels=[0], num_heads=2, transformer_depth=1, context_dim=8)
    channels = 3 + 2 * ("semantic" in section) + 4 * ("inpaint" in section)
    config = MODEL | dict(conditioning=section, model=MODEL["model"] | context | dict(in_channels=channels))
    tree = jax.eval_shape(make_system(config).init, jax.random.key(0))["conditioner"]
    found = dict(by_kind(section, tree))
    assert set(found) == set(conditioning_kinds(section))
    assert found["class_label"]["embedding"]["embedding"].shape == (
        4,
        8,
    )  # a row for no class beside the three
    for kind, inner in found.items():
        assert tree[kind] is inner


def test_a_kind_that_a_file_keeps_nothing_of_has_no_parameters():
    assert by_kind(dict(clip={}, depth={}), {"clip": {"w": 1}}) == [
        ("clip", {"w": 1}),
        ("depth", {}),
    ]


ROOT = pathlib.Path(__file__).resolve().parent.parent
BASE = "WIDTH = {width}\n"
EXPERIMENT = """
from ml_collections import ConfigDict
from configs import base

def get_config(argument=""):
    from configs import base as again
    assert base is again
    return ConfigDict(dict(width=base.WIDTH, argument=argument))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The folder that a package is installed in, with configs of its own inside of it."""
    configs = tmp_path / "site-packages" / "ldm_jax" / "configs"
    configs.mkdir(parents=True)
    (configs / "__init__.py").write_text("")
    (configs / "base.py").write_text(BASE.format(width=3))
    (configs / "experiment.py").write_text(EXPERIMENT)
    monkeypatch.setattr(config_module, "__file__", str(configs.parent / "config.py"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return configs


def test_a_checkout_has_its_configs_beside_the_package():
    assert config_folder() == ROOT / "configs"
    assert config_names() == sorted(
        p.stem for p in (ROOT / "configs").glob("*.py") if p.stem not in ("base", "__init__")
    )
    assert load_config("shapes_text:runlocal") == load_config(ROOT / "configs" / "shapes_text.py:runlocal")
    assert (
        load_config("shapes_text:runlocal")["total_steps"] == 2 != load_config("shapes_text")["total_steps"]
    )


def test_an_installed_package_has_its_configs_inside(installed):
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}
    assert config_names() == ["experiment"]
    for name in ("experiment", "configs/experiment.py", installed / "experiment.py"):
        assert load_config(name) == dict(width=3, argument="")
    assert load_config("experiment:small") == dict(width=3, argument="small")
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}
    assert after == before and str(installed.parent) not in sys.path


def test_a_config_of_ones_own_finds_those_beside_it_or_those_of_the_package(installed, tmp_path):
    mine = tmp_path / "elsewhere" / "mine.py"
    shutil.copy(installed / "experiment.py", mine)
    assert load_config("mine.py") == load_config(mine) == dict(width=3, argument="")
    folder = tmp_path / "elsewhere" / "configs"
    folder.mkdir()
    shutil.copy(mine, folder / "mine.py")
    assert load_config("configs/mine.py")["width"] == 3
    (folder / "base.py").write_text(BASE.format(width=5))
    assert load_config("configs/mine.py:x") == dict(width=5, argument="x")


def test_the_file_that_is_there_comes_before_the_one_of_that_name(installed, tmp_path):
    folder = tmp_path / "elsewhere" / "configs"
    folder.mkdir()
    (folder / "experiment.py").write_text(EXPERIMENT.replace("base.WIDTH", "7"))
    assert load_config("configs/experiment.py")["width"] == 7
    assert load_config("experiment")["width"] == 3


def test_a_bundles_config_is_read_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    assert load_config(tmp_path / "config.json") == MODEL


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "shapes_txt",
            "config shapes_txt: no such file and no such name; did you mean shapes_text. There are: .*celeba.* "
            "vq_f8_n256",
        ),
        ("configs/shapes_txt.py:runlocal", "config configs/shapes_txt.py: .* did you mean shapes_text"),
        ("nowhere/shapes_text.py", "no such file"),
        ("base", "no such file and no such name"),
        (".", "expected a name, a .py with get_config"),
        ("ldm_jax/__init__.py", "has no get_config"),
    ],
)
def test_what_is_no_config_is_named(name, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=message):
        load_config(name)


def test_base_is_no_config():
    assert "base" not in config_names() and find_config("sd1").name == "sd1.py"
