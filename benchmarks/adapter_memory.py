"""What training holds between steps, of Stable Diffusion 1 and of what it can be taught:

    python benchmarks/adapter_memory.py

counts the bytes of the arguments of the compiled step, the state (parameters, averages, the optimizer's) and what is
frozen beside it (the base, the first stage), and writes the table of docs/benchmarks.md. Nothing is allocated or
measured: these are the shapes that XLA is given. Activations come on top.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from configs.consistency import TARGETS  # noqa: E402
from ldm_jax.checkpoints import conditions  # noqa: E402
from ldm_jax.config import load_config  # noqa: E402
from ldm_jax.distributed import parallel  # noqa: E402
from ldm_jax.personalization.base import new_conditions  # noqa: E402
from ldm_jax.training import program  # noqa: E402

DOCUMENT = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- adapter_memory: begin -->\n", "<!-- adapter_memory: end -->\n"
TOKEN = dict(name="textual_inversion", token="<it>")
LCM = dict(name="consistency")
ROWS = {  # label: (config.personalization, config.distillation)
    "whole": (None, None),
    "lora, rank 4, text encoder too": (dict(name="lora", rank=4, text_rank=4), None),
    "textual_inversion": (TOKEN, None),
    "custom_diffusion": (dict(name="custom_diffusion"), None),
    "controlnet": (dict(name="controlnet"), None),
    "t2i_adapter": (dict(name="t2i_adapter"), None),
    "ip_adapter": (dict(name="ip_adapter"), None),
    "instances": (dict(name="instances"), None),
    "latent consistency, whole": (None, LCM),
    "latent consistency, LoRA of rank 64": (
        dict(name="lora", rank=64, targets=TARGETS, conv_rank=64),
        dict(LCM, target="student"),
    ),
}


def config_of(personalization: dict | None, distillation: dict | None) -> dict:
    """configs/sd1.py with the optimizer that adapters are trained with, so that the states compare."""
    config = load_config("sd1")
    config |= dict(first_stage=load_config("kl_f8")["first_stage"], batch_size=jax.device_count())
    config |= dict(optimizer=load_config("lora")["optimizer"], distillation=distillation)
    if personalization is None:
        return config
    config |= dict(personalization=personalization, freeze=())
    if personalization == TOKEN:
        config["conditioning"] = dict(config["conditioning"], vocab_size=49409)
    return conditions.in_config(config, new_conditions(personalization))


def gigabytes(tree) -> float:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e9


def row(personalization: dict | None, distillation: dict | None) -> tuple[int, float, float]:
    """(parameters that are trained, gigabytes of the state, gigabytes of what is frozen)."""
    config = config_of(personalization, distillation)
    made = program.make_training_program(config, parallel.make("pmap", None))
    frozen = set(config.get("freeze") or ())
    trained = {name: tree for name, tree in made.state.params.items() if name not in frozen}
    number = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(trained))
    return number, gigabytes(made.state), gigabytes(made.frozen)


def main() -> None:
    lines = ["| what is trained | parameters | state | frozen | together | : whole |", "|" + "---|" * 6]
    whole = None
    for label, sections in ROWS.items():
        number, state, frozen = row(*sections)
        whole = whole or state + frozen
        share = (state + frozen) / whole
        sizes = " | ".join(f"{size:.2f} GB" for size in (state, frozen, state + frozen))
        lines.append(f"| {label} | {number:,} | {sizes} | {share:.2f} |")
        print(lines[-1], flush=True)
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
