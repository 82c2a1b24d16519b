"""What feature caching and token merging leave of the work of drawing a picture: FLOPs, counted, nothing is run.

    python benchmarks/faster.py --config configs/sd1.py --steps 50

prints a JSON line for each way, appends it to benchmarks/results/faster.jsonl, and writes the table of
docs/samplers.md; nothing is compiled, and parameters are shapes. Counted is the whole sampler, text encoder and
guidance too, from its jaxpr (ldm_jax/xla/flops.py). Of a run with caching, the first of every `interval` steps costs
the network and the others its shallow part. How many pictures stay right is measured by
`ldm-evaluate shapes --cache_interval 3 --merge_ratio 0.5`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax

from ldm_jax import cli
from ldm_jax.commands import dry_run
from ldm_jax.config import load_config
from ldm_jax.evaluation.report import markdown
from ldm_jax.inference import methods, settings
from ldm_jax.inference.program import arguments, make_program
from ldm_jax.models import latent_scale
from ldm_jax.system import System, make_system
from ldm_jax.xla import flops

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (a script has its own folder on the path, and not the repository)

RESULTS = ROOT / "benchmarks" / "results" / "faster.jsonl"
DOCUMENT = ROOT / "docs" / "samplers.md"
WAYS: tuple[dict[str, dict[str, Any]], ...] = (
    {},
    {"cache": {"interval": 2}},
    {"cache": {"interval": 3}},
    {"cache": {"interval": 5}},
    {"cache": {"interval": 3, "branch": 3}},
    {"merge": {"ratio": 0.5}},
    {"merge": {"ratio": 0.75}},
    {"cache": {"interval": 3}, "merge": {"ratio": 0.5}},
)


def work(system: System, scale: Any, sampling: dict[str, Any], way: dict[str, dict]) -> float:
    """FLOPs of one picture's sampler, without the first stage."""
    recipe, args = arguments(system, system.param_shapes(), sampling, 1)
    call = methods.Call(
        1, args.visited, system.schedule.num_timesteps, recipe.latent_shape, [""], None,
        float(sampling["guidance_scale"]), decoder=system.unet.decoder,
    )  # fmt: skip
    asked = settings.with_faster({"edit": None, "cache": None, "merge": None} | way)
    choice = methods.choose(None, asked, call)
    shared = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), choice.shared)
    recipe = recipe._replace(methods=(*recipe.methods, *choice.methods))
    args = args._replace(shared=(*args.shared, *shared), each=(*args.each, *choice.each))
    jaxpr = jax.make_jaxpr(make_program(system, scale, recipe))(args).jaxpr
    whole, shallow = (flops.of_jaxpr(jaxpr, branch=branch) for branch in (max, min))
    steps = args.visited.shape[0]
    dear = -(-steps // way.get("cache", {}).get("interval", 1))
    return (dear * whole + (steps - dear) * shallow) / steps


def table(lines: list[dict[str, Any]]) -> str:
    """In markdown: of each config and way the last line."""
    lines = list({(line["config"], named(line["way"]), line["steps"]): line for line in lines}.values())
    header = ["", "steps", "TFLOP of a picture", "of plain sampling"]
    rows = [
        [
            f"{line['config']}, {named(line['way'])}", str(line["steps"]), f"{line['flops'] / 1e12:.1f}",
            f"{line['share']:.3f}",
        ]
        for line in lines
    ]  # fmt: skip
    return markdown(header, rows).rstrip()


def named(way: dict[str, dict[str, Any]]) -> str:
    """'`cache={"interval": 3}`', or 'plain'."""
    return ", ".join(f"`{name}={json.dumps(options)}`" for name, options in way.items()) or "plain"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", required=True, help="a config of a diffusion model, such as configs/sd1.py")
    add("--steps", type=int, default=50, help="sampling steps (default %(default)s)")
    add("--results", type=Path, default=RESULTS, help="the file to append to (default %(default)s)")
    args = parser.parse_args(argv)
    config = load_config(args.config)
    system = make_system(dry_run.with_first_stage(config))
    scale = latent_scale.of_config(config, system.first_stage.channels)
    sampling = settings.resolve_settings(config.get("sampling", {}), num_steps=args.steps, sampler="ddim")
    lines: list[dict[str, Any]] = []
    for way in WAYS:
        counted = work(system, scale, sampling, way)
        share = counted / lines[0]["flops"] if lines else 1.0
        about = dict(config=Path(args.config).stem, way=way, steps=args.steps, flops=counted, share=share)
        lines.append(about | dict(guidance_scale=sampling["guidance_scale"], jax=jax.__version__))
        print(json.dumps(lines[-1]), flush=True)
    report.append(args.results, lines)
    if args.results == RESULTS:
        report.put(DOCUMENT, "faster", table(report.read(RESULTS)))


if __name__ == "__main__":
    cli.run(main)
