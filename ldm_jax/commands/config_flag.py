"""The flag --config of the commands that train: a config, any of whose keys --config.KEY=VALUE sets.

Keys are of the type that the config gives them. A list is written 1,2,3 or [1,2,3]; a key that is None takes any
value, and None unsets a text. Options that a config leaves at their defaults can be set, too (config_keys.py).
"""

import ast
import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ldm_jax.commands import config_keys
from ldm_jax.config import config_names, make_config
from ldm_jax.text_files import cut

NAME = "config"
OVERRIDE = re.compile(rf"--?(?:no)?{NAME}\.([^=]+)")


def epilog() -> str:
    """What --help says of the flag."""
    said = "--config NAME[:ARGUMENT] or FILE.py[:ARGUMENT], and --config.KEY=VALUE for any key of it (a list: 1,2,3)."
    return textwrap.fill(f"{said} The names are {', '.join(config_names())}.", width=100)


class _Config(flags.ArgumentParser):
    """A config by its name or file, see `make_config`, with the keys that argv sets; ml_collections' own knows files
    alone."""

    def __init__(self, argv: Sequence[str]):
        self._argv = argv

    def parse(self, argument: str) -> ConfigDict:
        config = make_config(argument)
        config_keys.prepare(config, self._argv)
        for key in (match[1] for match in map(OVERRIDE.match, self._argv) if match):
            _own_value(config, key, self._argv)
        return config.lock()

    def flag_type(self) -> str:
        return "config"


def _own_value(config: ConfigDict, key: str, argv: Sequence[str] = ()) -> Any:
    """What the config has under a key such as 'model.channels'. Raises: ValueError if there is no such key."""
    value = config
    for depth, part in enumerate(key.split(".")):
        name = part.partition("[")[0]  # of a list, --config.model.channel_mult[0]=2 sets one element
        if not isinstance(value, ConfigDict) or name not in value:
            left_out = config_keys.of_section(config, ".".join(key.split(".")[:depth]), argv)
            known = sorted({*value, *left_out}) if isinstance(value, ConfigDict) else []
            nearest = difflib.get_close_matches(name, known, 1)
            within = ".".join([NAME, *key.split(".")[:depth]])
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            has = f"it has: {', '.join(known)}" if known else "it has no keys"
            raise ValueError(f"there is no {name!r} in {within}; {meant}{has}")
        value = value[name]
    return value


class _List(flags.ArgumentParser):
    """'1,2,3' or '[1,2,3]'; ml_collections has a parser of tuples alone, and none for repeated names without quotes."""

    def parse(self, argument: Any) -> list:
        if not isinstance(argument, str):  # the config's own
            return list(argument)
        text = argument.strip()
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return self._words(text)
        return list(value) if isinstance(value, list | tuple) else [value]

    def _words(self, text: str) -> list:
        """The elements of a list of which not all are literals, such as 'a,b' or '[true,false]'."""
        for opening, closing in ("[]", "()"):
            if text.startswith(opening) != text.endswith(closing):
                raise ValueError("expected a list, such as 1,2,3 or [1,2,3]")
            text = text.removeprefix(opening).removesuffix(closing)
        return [_literal(word.strip()) for word in text.split(",")] if text else []

    def flag_type(self) -> str:
        return "list"


KEY = re.compile(r"config(\.\w+(\[-?\d+\])?)+")  # of what a flag sets


class _Anything(flags.ArgumentParser):
    """A number, list, dict, bool or None as Python writes it, and otherwise text: for keys that are None."""

    def parse(self, argument: str) -> Any:
        return _literal(argument)

    def flag_type(self) -> str:
        return "value"


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (SyntaxError, ValueError):
        return text


class _Text(flags.ArgumentParser):
    """Text, or None where it says so, as `init_from`, a model's name, can be; ml_collections has no other way back."""

    def parse(self, argument: str) -> str | None:
        return None if argument == "None" else argument

    def flag_type(self) -> str:
        return "string"


config_flags.register_flag_parser_for_type(list, _List())
config_flags.register_flag_parser_for_type(str, _Text())
config_flags.register_flag_parser_for_type(type(None), _Anything())


def read_config(argv: Sequence[str]) -> dict:
    """The config of `--config NAME [--config.KEY=VALUE …]`.

    Raises: ValueError without one, for a key that it does not have, a value of another type, or another argument.
    """
    for key in (a.partition("=")[0].lstrip("-") for a in argv if a.startswith(("--config.", "-config."))):
        if not KEY.fullmatch(key):
            raise ValueError(
                f"--{cut(key, 200)}: expected names between the dots; others are set in the config's file"
            )
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(NAME, None, flag_values=values, sys_argv=["", *argv])
    values[NAME].parser = _Config(argv)
    try:
        rest = values(["", *argv])
    except (flags.Error, IndexError) as error:  # the latter of --config.LIST[9]
        raise ValueError(f"{cut(error, 500)}; see --help") from None
    if len(rest) > 1:
        raise ValueError(f"unexpected argument {rest[1]!r}; see --help")
    if values.config is None:
        raise ValueError(f"--config is missing: a file, or one of {', '.join(config_names())}")
    _check_elements(values[NAME], argv)
    return values.config.to_dict()


def _check_elements(flag: Any, argv: Sequence[str]) -> None:
    """Raises: ValueError for a list set on the command line whose elements are of other types than the config's own."""
    own = make_config(flag.config_filename)
    config_keys.prepare(own, argv)
    for key, value in flag.override_values.items():
        if not isinstance(value, list):
            continue
        before = _own_value(own, key)
        types = {type(element) for element in before or ()}
        allowed = types | ({int} if float in types else set())
        if types and not {type(element) for element in value} <= allowed:
            raise ValueError(f"--config.{key}: got {value}, expected elements as of the config's {before}")
