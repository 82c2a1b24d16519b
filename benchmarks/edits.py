"""What an editing method adds to the memory of sampling, by XLA's own count of temporaries, compiled for a CPU:

    python benchmarks/edits.py --model small                          # all methods
    python benchmarks/edits.py --model sd1 --methods attend_and_excite,masactrl

Nothing is run and no parameter is made. Each method is compiled for one picture, and plain sampling for as many rows: a
method that draws the source beside the picture is compared with two pictures. Lines go to
benchmarks/results/edits.jsonl, and `python benchmarks/report.py` makes the table of docs/benchmarks.md. Steps are
two; a scan is as large for more.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "edits.jsonl"
PROMPT, SOURCE = "a red circle and a blue square", "a red circle and a red square"
REGIONS = [
    {"phrase": "a red circle", "box": [0, 0, 0.5, 0.5]},
    {"phrase": "a blue square", "box": [0.5, 0.5, 0.5, 0.5]},
]
OPTIONS = {
    "prompt_to_prompt": dict(source=SOURCE),
    "attend_and_excite": {},
    "structured": {},
    "dense_diffusion": dict(regions=REGIONS),
    "masactrl": dict(source=SOURCE, words="circle"),
    "plug_and_play": dict(source=SOURCE),
}
MODELS = {"small": 32, "sd1": 64}  # rows of the latents


def temporaries(name: str, method: str | None, pictures: int) -> int:
    """Bytes of the temporaries of the program that draws so many pictures."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks import speed_models
    from ldm_jax.conditioning.text import TOKENIZERS
    from ldm_jax.inference.program import make_program
    from ldm_jax.inference.runs import make_run
    from ldm_jax.inference.settings import FALLBACK
    from ldm_jax.system import make_system

    config = speed_models.read_config(name)
    words = sorted({*PROMPT.split(), *SOURCE.split()})
    system = make_system(config, TOKENIZERS["word_level"](words=words, max_length=77))
    side = MODELS[name] * system.first_stage.factor
    edit = None if method is None else {method: OPTIONS[method]}
    run = make_run(
        system, {"prompts": [PROMPT] * pictures}, np.arange(pictures, dtype=np.uint32),
        FALLBACK | dict(num_steps=2, guidance_scale=7.5), image_shape=(side, side), edit=edit,
    )  # fmt: skip
    args = run.arguments._replace(params=jax.eval_shape(system.in_compute_dtype, system.param_shapes()))
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(np.shape(v), jnp.result_type(v)), args)
    compiled = jax.jit(make_program(system, 1.0, run.recipe)).lower(shapes).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sd1", choices=list(MODELS), help="default %(default)s")
    parser.add_argument("--methods", default=",".join(OPTIONS), help="default %(default)s")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from benchmarks import cost_guard

    os.environ.update(cost_guard.SAME)
    import jax

    from ldm_jax.find import find

    plain: dict[int, int] = {}
    for method in args.methods.split(","):
        pictures = 1 + len(getattr(find("editing", method), "BRANCHES", ()))
        started = time.time()
        if pictures not in plain:
            plain[pictures] = temporaries(args.model, None, pictures)
        used = temporaries(args.model, method, 1)
        line = dict(
            model=args.model, method=method, rows=pictures, temporaries=used, plain=plain[pictures],
            ratio=round(used / plain[pictures], 3), jax=jax.__version__, seconds=round(time.time() - started, 1),
        )  # fmt: skip
        print(json.dumps(line), flush=True)
        with open(RESULTS, "a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
