"""Every `python …` of the documents names a script or module that there is, flags that it defines, and keys that its
config has.

The definitions are read from the source: nothing is run but the config files and the documents' imports.
"""

import ast
import configparser
import functools
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from ldm_jax.commands import config_keys
from ldm_jax.config import load_config, make_config
from ldm_jax.find import find, names
from ldm_jax.inference import methods, sampler_options, settings

ROOMS = {"guidance": "guidance", "edit": "editing", "inversion": "inversion"}
FASTER = settings.FASTER  # methods that are named by an option of their own
ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(
    r"(?<![\w.-])(?:[\w./]*/)?"
    r"(?:python3? +(?:-m +(?P<module>[\w.]+)|(?P<script>[\w/]+\.py))|(?P<console>ldm-[a-z-]+))(?P<rest>.*)"
)
IMPORT = re.compile(r"from (ldm_jax[\w.]*) import (\w+)(?: as (\w+))?$", flags=re.MULTILINE)
START = re.compile(r"python3? |(?<![\w-])ldm-[a-z]")
END = re.compile(r"`| && | \| |; | #|\$\(| -- |\)$")  # of a command within its line
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
CONSOLE = dict(
    re.findall(
        r"^([\w-]+) = ([\w.:]+)$", SETUP["options.entry_points"]["console_scripts"], flags=re.MULTILINE
    )
)
FLAG = re.compile(r"(?<!\S)--([\w.]+)")


def commands(text: str) -> list[tuple[str, str]]:
    """(what is run, its arguments without what is quoted in them) of a document."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for start in START.finditer(line):  # several in one line
            before = line[: start.start()].rfind(" ") + 1
            match = COMMAND.match(line[before:].lstrip("`'\"("))
            if match:
                rest = re.sub(r"'[^']*'", "''", match["rest"])
                name = match["module"] or match["script"] or match["console"]
                found.append((name, END.split(rest)[0].rstrip("'\" ")))
    return found


def source_of(name: str) -> pathlib.Path | None:
    """The file that `python name.py`, `python -m name` or a console command runs, if there is one."""
    if name.startswith("ldm-"):
        entry = CONSOLE.get(name)
        return None if entry is None else source_of(entry.partition(":")[0])
    if name.endswith(".py"):
        places = [ROOT / name]
    else:
        module = ROOT.joinpath(*name.split("."))
        places = [module.with_suffix(".py"), module / "__main__.py"]
    return next((place for place in places if place.is_file()), None)


@functools.cache
def flags_of(path: pathlib.Path) -> frozenset[str]:
    """The flags that a program's source defines, and those of the modules that it hands its arguments to."""
    tree, found = ast.parse(path.read_text()), {"help"}
    text = path.read_text()
    mains = re.findall(r"from (ldm_jax[\w.]*) import (?:main|console)", text)
    for name in re.findall(r"(\w+)\.(?:main|run)\(argv\b", text):
        mains += [
            f"{package}.{module}"
            for package, module, alias in IMPORT.findall(text)
            if name == (alias or module)
        ]
    if "cli.add_checkpoint_arguments(" in text:
        mains.append("ldm_jax.cli")
    rooms = re.findall(
        r'^ROOM = "([\w/]+)"$', text, flags=re.MULTILINE
    )  # their entries have flags of their own
    for room in rooms:
        mains += [f"ldm_jax.{room.replace('/', '.')}.{entry}" for entry in names(room)]
    for name in re.findall(r"(\w+)\.(?:add_arguments\(parser\)|parser\(\))", text):
        mains += [f"{package}.{module}" for package, module, _ in IMPORT.findall(text) if module == name]
    if "config_flag.read_config(" in text:
        found |= {"config", "config.*"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(r"^--(\w+)$", node.value))
    for module in mains:
        other = source_of(module)
        found |= flags_of(other) if other else set()
    return frozenset(found)


@functools.cache
def options_of_method(kind: str, rest: str) -> set[str]:
    """The options of the method that --guidance or --edit names, or of the sampler; those of --cache and --merge."""
    if kind in FASTER:
        return set(methods.options_of("editing", FASTER[kind]))
    method = re.search(rf"--{kind}[ =](\w+)", rest)[1]
    if kind == "sampler":
        return set(sampler_options.options_of(find("samplers", method)))
    branches = getattr(find(ROOMS[kind], method), "BRANCHES", ())
    return {*methods.options_of(ROOMS[kind], method), *branches}


def keys_of(config: str) -> dict | None:
    """The config of a name or file, with or without an argument; None if there is none."""
    try:
        return load_config(config)
    except ValueError:
        return None


def complaints(name: str, rest: str) -> list[str]:
    """What is wrong with one command of ours; nothing of others' modules, such as pytest."""
    if not name.endswith(".py") and not name.startswith(("ldm_jax", "ldm-")):
        return []
    path = source_of(name)
    if path is None:
        return [f"{name} is not there"]
    known, said, given = flags_of(path), [], FLAG.findall(rest)
    if name == "ldm-recognize" and rest.split()[:1] in [[method] for method in names("recognition")]:
        known |= {"levels", "noises", *methods.options_of("recognition", rest.split()[0])}
    for flag in given:
        kind, dot, option = flag.partition(".")
        if dot and (kind in (*ROOMS, "sampler") and kind in known or kind in FASTER and "edit" in known):
            if option not in options_of_method(kind, rest):
                said.append(f"--{kind} has no option {option}")
        elif flag not in known and not (flag.startswith("config.") and "config.*" in known):
            said.append(f"{name} has no --{flag}")
    config = re.search(r"--config[ =]([\w/]+(?:\.py)?(?::\w+)?)", rest)
    if config and re.search("[A-Z]{2}", config[1]):  # a place holder, such as FILE
        config = None
    if config and keys_of(config[1]) is None:
        said.append(f"there is no config {config[1]}")
    elif config:
        whole = make_config(config[1])
        argv = rest.replace("mypackage.data:source", "folder").split()  # the reader's own
        config_keys.prepare(whole, argv)  # with the keys that it may have, too
        for flag in (flag for flag in given if flag.startswith("config.")):
            keys = whole
            for key in flag.split(".")[1:]:
                if not isinstance(keys, ConfigDict) or key not in keys:
                    said.append(f"{config[1]} has no key for --{flag}")
                    break
                keys = keys[key]
    return said


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_what_there_is(document):
    wrong = [said for name, rest in commands(document.read_text()) for said in complaints(name, rest)]
    assert not wrong, "; ".join(sorted(set(wrong)))


def test_commands_are_found_wherever_they_stand():
    text = """
    pip install x && python train.py --config configs/sd1.py --workdir \\
        runs && ldm-convert a b --to compvis   # --no
    on 0 'cd x && sudo env A=1 venv/bin/ldm-convert runs out --raw'
    `ldm-sweep --steps 10` and `python -c "--nothing"`; python sample.py --jobs '--x' --out y
    """
    assert [(name, FLAG.findall(rest)) for name, rest in commands(text)] == [
        ("train.py", ["config", "workdir"]),
        ("ldm-convert", ["to"]),
        ("ldm-convert", ["raw"]),
        ("ldm-sweep", ["steps"]),
        ("sample.py", ["jobs", "out"]),
    ]
    assert sum(len(commands(document.read_text())) for document in DOCUMENTS) > 30


@pytest.mark.parametrize(
    ("name", "rest", "said"),
    [
        ("sample.py", "--prompt x --raw --seeds 3", []),
        ("sample.py", "--promt x", ["sample.py has no --promt"]),
        ("sample.py", "--edit prompt_to_prompt --edit.source x --edit.cross_steps 1", []),
        ("sample.py", "--guidance interval --guidance.sigma 1", ["--guidance has no option sigma"]),
        ("sample.py", "--cache.interval 3 --merge.ration 0.5", ["--merge has no option ration"]),
        ("ldm-precompute-latents", "--config configs/sd1.py --config.data.root=x --out y", []),
        ("ldm-precompute-latents", "--config sd1:runlocal --config.data.num_scenes=9 --out y", []),
        ("ldm-train", "--config sd9 --workdir y", ["there is no config sd9"]),
        ("ldm-convert", "--config.data.root=x", ["ldm-convert has no --config.data.root"]),
        ("ldm_jax.nothing", "--out x", ["ldm_jax.nothing is not there"]),
        ("ldm-nothing", "--out x", ["ldm-nothing is not there"]),
        (
            "train.py",
            "--config configs/sd1.py --config.data.rot=x",
            ["configs/sd1.py has no key for --config.data.rot"],
        ),
        ("pytest", "--anything", []),
    ],
)
def test_what_is_wrong_is_said(name, rest, said):
    assert complaints(name, rest) == said


def test_what_the_documents_import_is_there():
    lines = {
        line
        for document in DOCUMENTS
        for line in document.read_text().splitlines()
        if line.startswith(("import ldm_jax", "from ldm_jax"))
    }
    assert lines
    for line in sorted(lines):
        exec(line, {})  # an ImportError names what is not there
