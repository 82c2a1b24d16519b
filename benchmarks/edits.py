"""What an editing method, or an inversion, adds to the memory of sampling, by XLA's own count of temporaries,
compiled for a CPU:

    python benchmarks/edits.py --model small                          # all methods
    python benchmarks/edits.py --model sd1 --methods attend_and_excite,masactrl
    python benchmarks/edits.py --model sd1 --missing                  # those without a line yet

Each method is compiled for one picture, and plain sampling for as many rows: a method that draws the source beside the
picture is compared with two pictures. Nothing is run and no parameter is made. The compiler is told what
inference/devices.py tells it. Lines go to
benchmarks/results/edits.jsonl, and `python benchmarks/report.py` makes the table of docs/benchmarks.md. A scan is as
large for more steps.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "edits.jsonl"
PROMPT, SOURCE = "a red circle and a blue square", "a red circle and a red square"
REGIONS = [
    {"phrase": "a red circle", "box": [0, 0, 0.5, 0.5]},
    {"phrase": "a blue square", "box": [0.5, 0.5, 0.5, 0.5]},
]
OPTIONS: dict[str, dict[str, Any]] = {
    "prompt_to_prompt": dict(source=SOURCE),
    "attend_and_excite": {},
    "structured": {},
    "dense_diffusion": dict(regions=REGIONS),
    "llm_grounded": dict(layout={"objects": REGIONS}),
    "masactrl": dict(source=SOURCE, words="circle"),
    "plug_and_play": dict(source=SOURCE),
    "cross_image": dict(source=SOURCE, appearance="a green circle and a green square", words="circle"),
    "eye_for_an_eye": dict(source=SOURCE, appearance="a green circle and a green square", words="circle"),
    "style_injection": dict(source=SOURCE, style=PROMPT),
    "pix2pix_zero": dict(source=SOURCE),
    "diffedit": dict(source=SOURCE),
    "ledits_pp": {},
}
INVERSIONS = ("ddim", "null_text")  # those that are not a scan of the same calls as another
MODELS = {"small": 32, "sd1": 64}  # rows of the latents
SCALE, STEPS = 7.5, 2


class Made(NamedTuple):
    """A program, its arguments without parameters, whether it differentiates the network, and the rows of a picture."""

    program: Any
    arguments: Any
    differentiates: bool
    rows: int = 1


def sampling(system: Any, side: int, method: str | None, pictures: int) -> Made:
    """What draws so many pictures."""
    import numpy as np

    from ldm_jax.find import find
    from ldm_jax.inference import methods
    from ldm_jax.inference.inversions import Inverted
    from ldm_jax.inference.program import make_program
    from ldm_jax.inference.runs import make_run
    from ldm_jax.inference.settings import FALLBACK

    inverted, shape = None, (pictures, STEPS + 1, *system.latent_shape_of((side, side)))
    if method and hasattr(find("editing", method), "INVERSION"):  # of a given picture
        arrays = dict(trajectory=np.zeros(shape, np.float32))
        arrays |= dict(noises=arrays["trajectory"][:, 1:]) if method == "ledits_pp" else {}
        inverted = Inverted(arrays, "noises" not in arrays, {}, (side, side))
    run = make_run(
        system, {"prompts": [PROMPT] * pictures}, np.arange(pictures, dtype=np.uint32),
        FALLBACK | dict(num_steps=STEPS, guidance_scale=SCALE), image_shape=(side, side),
        edit=method and {method: OPTIONS[method]}, inverted=inverted,
    )  # fmt: skip
    program, rows = make_program(system, 1.0, run.recipe), len(run.arguments.inputs)
    return Made(program, run.arguments, methods.differentiates(run.recipe.methods), rows)


def inverting(system: Any, side: int, name: str) -> Made:
    """What inverts one picture."""
    import numpy as np

    from ldm_jax.inference import inversions, methods
    from ldm_jax.inference.sampler_options import visited_timesteps
    from ldm_jax.inference.settings import FALLBACK

    plain = sampling(system, side, None, 1)
    shape, visited = (
        system.latent_shape_of((side, side)),
        visited_timesteps(FALLBACK | dict(num_steps=STEPS), system.schedule),
    )
    call = methods.Call(
        1, np.asarray(visited), system.schedule.num_timesteps, shape, [PROMPT], system.tokenizer, SCALE
    )
    method, shared, each = methods.choose_inversion(name, {}, call)
    recipe = inversions.InversionRecipe(method, shape, "first", True)
    known = {"x_start": np.zeros((1, *shape), np.float32)}
    args = plain.arguments._replace(
        visited=np.asarray(visited), sampler={}, known=known, shared=(shared,), each=(each,)
    )
    program = inversions.make_inverter(system, 1.0, recipe)
    return Made(program, args, methods.differentiates([method]), plain.rows)


def temporaries(system: Any, made: Made) -> int:
    """Bytes of its program's temporaries on a CPU."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from ldm_jax.inference import devices

    args = made.arguments._replace(params=jax.eval_shape(system.in_compute_dtype, system.param_shapes()))
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(np.shape(v), jnp.result_type(v)), args)
    jitted = devices.local().jit(made.program, differentiates=made.differentiates)
    return int(jitted.lower(shapes).compile().memory_analysis().temp_size_in_bytes)


def main(argv: list[str] | None = None) -> None:
    every = [*OPTIONS, *INVERSIONS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sd1", choices=list(MODELS), help="default %(default)s")
    parser.add_argument("--methods", default=",".join(every), help="default %(default)s")
    parser.add_argument("--missing", action="store_true", help="those alone that have no line")
    args = parser.parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from benchmarks import cost_guard

    os.environ.update(cost_guard.SAME)
    import jax

    from benchmarks import report, speed_models
    from ldm_jax.conditioning.text import TOKENIZERS
    from ldm_jax.system import make_system

    config = speed_models.read_config(args.model)
    words = sorted({w for o in (PROMPT, SOURCE, OPTIONS["cross_image"]["appearance"]) for w in o.split()})
    system = make_system(config, TOKENIZERS["word_level"](words=words, max_length=77))
    side = MODELS[args.model] * system.first_stage.factor
    lines = [line for line in report.read(RESULTS) if line["jax"] == jax.__version__]
    done = {line["method"] for line in lines if line["model"] == args.model} if args.missing else set()
    known = lines if args.missing else []
    plain = {line["rows"]: line["plain"] for line in known if line["model"] == args.model}
    for method in [one for one in args.methods.split(",") if one not in done]:
        started = time.time()
        made = inverting(system, side, method) if method in INVERSIONS else sampling(system, side, method, 1)
        if made.rows not in plain:
            plain[made.rows] = temporaries(system, sampling(system, side, None, made.rows))
        used, beside = temporaries(system, made), plain[made.rows]
        line = dict(
            model=args.model, method=method, rows=made.rows, temporaries=used, plain=beside,
            ratio=round(used / beside, 3), jax=jax.__version__,
            seconds=round(time.time() - started, 1),
        )  # fmt: skip
        print(json.dumps(line), flush=True)
        report.append(RESULTS, [line])


if __name__ == "__main__":
    main()
