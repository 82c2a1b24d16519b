"""What recognition methods cost: temporaries by XLA's own count, compiled for a CPU, and seconds per picture.

    python benchmarks/recognition.py --model sd1                       # all methods: nothing is run
    python benchmarks/recognition.py --model sd1 --methods keypoints,picie
    python benchmarks/recognition.py --model sd1 --missing             # those without a line yet
    python benchmarks/recognition.py --seconds                         # of the shipped model: once, and again

Methods that read a network are compiled for one picture at one level and noise, others for two pictures and few steps,
since a scan is as large for one step as for more. --seconds takes the same few steps (`options` of a line) of
four pictures. Lines go to benchmarks/results/recognition.jsonl, and `python benchmarks/report.py` makes the table of
docs/recognition.md.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "recognition.jsonl"
MODELS = {"small": 32, "sd1": 64}  # rows of the latents
PICTURES, PROMPTS = 4, ["a red circle", "a blue square", "a red square", "a blue circle"]


def options_of(side: int) -> dict[str, dict[str, Any]]:
    """{method: its options on PICTURES pictures of `side` pixels}."""
    import numpy as np

    half = np.zeros((side, side), np.int32)
    half[: side // 2] = 1
    points = [(side / 3, side / 4), (side / 2, side / 2)]
    return {
        "daam": dict(word="circle"),
        "diffseg": {},
        "label_efficient": dict(labels=[half]),
        "correspondence": dict(points=points),
        "optimal_transport": dict(points=points),
        "optimized_embeddings": dict(points=points[:1], num_steps=2, rounds=1, crops=2),
        "keypoints": dict(num_steps=2, augmented=2, num_tokens=500),
        "pacl": dict(classes=["circle", "square"], num_steps=100),
        "kmeans": dict(number=5),
        "stego": dict(number=5, num_steps=100),
        "picie": dict(number=5, epochs=1, num_steps=50),
        "diffews": dict(masks=[half]),
    }


def program_of(system: Any, side: int, method: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """(the program of a method, its arguments without parameters)."""
    import numpy as np

    from ldm_jax.find import find
    from ldm_jax.inference import analysis
    from ldm_jax.inference.program import Arguments
    from ldm_jax.inference.runs import condition_inputs
    from ldm_jax.recognition.base import Shown

    module, shape = find("recognition", method), (side, side)
    latent = system.latent_shape_of(shape)
    number = 2 if hasattr(module, "solve") else 1
    told = system.null_inputs(number, None, shape)
    if method in ("daam", "pacl"):
        told = condition_inputs(system, {"prompts": PROMPTS[:number]}, None, np.arange(number), shape)[0]
    images = np.zeros((number, side, side, 3), np.float32)
    known, shared = {"x_start": np.zeros((number, *latent), np.float32)}, ()
    if hasattr(module, "solve"):
        static, arrays = module.given(Shown(images), latent, **options)
        recipe = analysis.SolvingRecipe(method, latent, tuple(sorted(static.items())))
        program, known, shared = (
            analysis.make_solver(system, 1.0, recipe),
            known | {"images": images},
            (arrays,),
        )
    else:
        program = analysis.make_reader(system, 1.0, analysis.ReadingRecipe(method, latent, 1))
    args = Arguments(
        params=(), inputs=(told,), null={}, seeds=np.arange(number, dtype=np.uint32),
        visited=np.zeros(len(module.LEVELS), np.int32), start=np.int32(0), sampler={}, known=known, shared=shared,
    )  # fmt: skip
    return program, args


def temporaries(model: str, method: str, config: dict, tokenizer: Any) -> dict[str, Any]:
    """The line of a method: MB of temporaries of its program."""
    from benchmarks import edits
    from ldm_jax.inference import analysis
    from ldm_jax.system import make_system
    from ldm_jax.training import few_shot

    system = make_system(few_shot.in_config(config) if method == "diffews" else config, tokenizer)
    side = MODELS[model] * system.first_stage.factor
    options, started = options_of(side)[method], time.time()
    made = edits.Made(*program_of(system, side, method, options), analysis.differentiates(method))
    used = edits.temporaries(system, made)
    return dict(
        model=model, method=method, temporaries=used, seconds_to_compile=round(time.time() - started, 1)
    )


def seconds(method: str, checkpoint: str) -> dict[str, Any]:
    """The line of a method: seconds per picture of the shipped model, and those of the first call."""
    import numpy as np

    from ldm_jax.inference import pipeline
    from ldm_jax.shapes_world import scenes as world

    model = pipeline.load(checkpoint)
    images = np.stack([world.render(world.scene(i, "test")) for i in range(PICTURES)])
    options, took = options_of(world.SIZE)[method], []
    prompts = PROMPTS if method == "pacl" else PROMPTS[0] if method == "daam" else None
    for _ in range(2):
        started = time.time()
        model.analyze(images, prompts, method, **options)
        took.append(time.time() - started)
    plain = {k: v for k, v in options.items() if isinstance(v, int)}
    return dict(
        model=checkpoint, method=method, pictures=PICTURES, options=plain, first=round(took[0], 2),
        per_picture=round(took[1] / PICTURES, 3), cores=len(os.sched_getaffinity(0)),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sd1", choices=list(MODELS), help="default %(default)s")
    parser.add_argument("--methods", default="", help="a,b (default: all)")
    parser.add_argument("--missing", action="store_true", help="those alone that have no line")
    parser.add_argument(
        "--seconds", action="store_true", help="seconds of --checkpoint in the place of temporaries"
    )
    parser.add_argument(
        "--checkpoint", default="shapes", help="with --seconds; of diffews one that was tuned"
    )
    args = parser.parse_args(argv)
    from benchmarks import cost_guard

    os.environ.update({} if args.seconds else cost_guard.SAME)
    import jax

    from benchmarks import report, speed_models
    from ldm_jax.conditioning.text import TOKENIZERS

    asked = args.methods.split(",") if args.methods else list(options_of(64))
    if args.seconds and not args.methods and args.checkpoint == "shapes":
        asked.remove("diffews")
    name = args.checkpoint if args.seconds else args.model
    done = {
        line["method"]
        for line in report.read(RESULTS)
        if line["model"] == name and line["jax"] == jax.__version__
    }
    words = sorted({word for prompt in PROMPTS for word in prompt.split()})
    for method in [one for one in asked if not (args.missing and one in done)]:
        if args.seconds:
            line = seconds(method, args.checkpoint)
        else:
            config = speed_models.read_config(args.model)
            line = temporaries(
                args.model, method, config, TOKENIZERS["word_level"](words=words, max_length=77)
            )
        line["jax"] = jax.__version__
        print(json.dumps(line), flush=True)
        report.append(RESULTS, [line])


if __name__ == "__main__":
    main()
