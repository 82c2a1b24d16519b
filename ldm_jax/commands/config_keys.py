"""Which keys a config may be given on the command line beyond those that it states: the options that it leaves at their
defaults, of its task, its data, its network, its conditioning and its optimizer.

Decides what makes sense for which task; what the options mean is said where they are read.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.config import options_of
from ldm_jax.data import pipeline
from ldm_jax.diffusion.loss import diffusion_loss
from ldm_jax.find import find
from ldm_jax.inference.settings import FALLBACK
from ldm_jax.models.unet import UNet
from ldm_jax.training import optimizer
from ldm_jax.training.examples import NOT_THE_SOURCES
from ldm_jax.training.workdir import KEYS

ANY_TASK = {
    "seed", "image_size", "dtype", "data", "loss", "optimizer", "ema_decay", "batch_size", "total_steps", "log_every",
    "checkpoint_every", "preview_every", "keep", "parallelism", "mesh", "steps_per_dispatch", "writers",
}  # fmt: skip
FIRST_STAGE = {"first_stage", "discriminator", "lpips"}
SECOND_STAGE = KEYS - {"task", "discriminator", "lpips", "classifier"}
OF_TASK = {"first_stage": ANY_TASK | FIRST_STAGE, "diffusion": SECOND_STAGE, "classifier": KEYS - {"task"}}
# Keys that are sections; another key is a value.
SECTIONS = (
    "conditioning",
    "conditioning.tokenizer",
    "data",
    "loss",
    "sampling",
    "optimizer",
    "optimizer.schedule",
)
LISTS = ("freeze", "class_names", "writers")  # whose values are lists, also of one name
LOSS = ("learn_logvar", "logvar_init", "token_masks", "alignment", "mutual_information")


def prepare(config: ConfigDict, argv: Sequence[str]) -> None:
    """Gives the config the keys that argv sets and that it leaves out, as None; and where argv names another source of
    data, takes away the options of the one before.

    argv: '--config.KEY=VALUE' …, or '--config.KEY', 'VALUE'. Raises: ValueError, listing the keys there are, for one
    that it cannot have.
    """
    given = _given(argv)
    name = given.get("data.name")
    if name and "data" in config and name != config.data.get("name"):
        shared = {"root", "holdout"} & set(pipeline.options_of(name))
        for option in set(config.data) - {*NOT_THE_SOURCES, "name", "split", *shared}:
            del config.data[option]
    for key in given:
        _let_in(config, key, given)


def left_out(config: ConfigDict, given: Mapping[str, str]) -> dict[str, list[str]]:
    """{section: the options that it may have}, '' for the config itself. given: what the command line sets."""

    def named(key: str) -> str | None:
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, ConfigDict) else None
        return given.get(key) or (value if isinstance(value, str) else None)

    found = {name: list(options) for name, options in optimizer.section_options().items()}
    found[""] = sorted(OF_TASK.get(config.get("task"), ()))
    if source := named("data.name"):
        found["data"] = ["name", "split", *NOT_THE_SOURCES, *pipeline.options_of(source)]
    if config.get("task") != "diffusion":
        return found
    found["model"] = options_of(UNet)
    found["sampling"] = [*FALLBACK, "batch_size"]
    found["loss"] = [*LOSS, "loss_type", *options_of(diffusion_loss)]
    found["conditioning"] = ["name"]
    if kind := named("conditioning.name"):
        conditioner = find("conditioning", kind)
        found["conditioning"] += [*options_of(conditioner.Conditioner)]
        if hasattr(conditioner, "TOKENIZERS"):
            found["conditioning"].append("tokenizer")
            found["conditioning.tokenizer"] = ["name"]
            tokenizer: Any = conditioner.TOKENIZERS.get(named("conditioning.tokenizer.name"))
            found["conditioning.tokenizer"] += options_of(tokenizer) if tokenizer else []
    return found


def of_section(config: ConfigDict, section: str, argv: Sequence[str]) -> list[str]:
    """The options that a section may have, '' for the config itself."""
    return left_out(config, _given(argv)).get(section, [])


def _given(argv: Sequence[str]) -> dict[str, str]:
    """{key: value} of the flags --config.KEY in argv."""
    found: dict[str, str] = {}
    for here, after in zip(argv, [*argv[1:], ""], strict=True):
        match = re.match(r"--?(?:no)?config\.([^=]+)(?:=(.*))?$", here, re.DOTALL)
        if match:
            found[match[1]] = after if match[2] is None else match[2]
    return found


def _let_in(config: ConfigDict, key: str, given: Mapping[str, str]) -> None:
    options, section, within = left_out(config, given), config, ""
    for part in key.split(".")[:-1]:
        inner = f"{within}.{part}".lstrip(".")
        if part not in section or section[part] is None:
            if inner not in SECTIONS or part not in options.get(within, ()):
                return  # `own_value` says that it is not there
            section[part] = ConfigDict()
        section, within = section[part], inner
        if not isinstance(section, ConfigDict):
            return
    name = key.rpartition(".")[2]
    if name in options.get(within, ()) and name not in section:
        section[name] = [] if key in LISTS else None
