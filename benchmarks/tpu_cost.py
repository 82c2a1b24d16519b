"""What training and sampling cost on slices of Cloud TPU, by compiling for them where there is no TPU (pip install
'ldm_jax[tpu]'):

    python benchmarks/tpu_cost.py                      # every row of ROWS that has no result yet
    python benchmarks/tpu_cost.py --only yardstick,celebahq_ldm4
    python benchmarks/tpu_cost.py --table              # docs/benchmarks.md from the results that there are

appends one JSON line for each row to benchmarks/results/tpu_cost.jsonl as soon as it is known, and writes the table. A
row that is there already is not compiled again, as long as what is asked is the same. A compile takes minutes and some
GB of memory, so
they run one after the other. Nothing is measured: these are the compiler's figures.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ldm_jax.commands import dry_run
from ldm_jax.config import load_config
from ldm_jax.distributed import parallel
from ldm_jax.inference.settings import resolve_settings
from ldm_jax.models import layers
from ldm_jax.models.unet import UNet
from ldm_jax.types import Cond
from ldm_jax.xla import flops, topology

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import adapter_memory, report, speed_models  # noqa: E402  (a script has its own folder on the path, and not the repository)

# Of the compiler, jax_exec_time_optimization_effort: 0 is its usual one, and takes much longer (compile_seconds of the
# results).
QUICK = -1.0
RESULTS = ROOT / "benchmarks" / "results" / "tpu_cost.jsonl"
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def train(
    config: str, slice_: str, batch_size: int, parallelism: str = "pmap", effort: float = QUICK, **overrides
) -> dict[str, Any]:
    """A row: one training step in bfloat16. effort: of the compiler. overrides: of the config, with __ for a dot."""
    changes = {"dtype": "bfloat16", "batch_size": batch_size, "parallelism": parallelism}
    changes |= {name.replace("__", "."): value for name, value in overrides.items()}
    return dict(what="train", config=config, topology=slice_, effort=effort, changes=changes)


def sample(config: str, slice_: str, batch_size: int) -> dict[str, Any]:
    """A row: pictures with the config's own sampler, batch_size on each chip."""
    changes = {"dtype": "bfloat16"}
    return dict(
        what="sample", config=config, topology=slice_, batch_size=batch_size, effort=QUICK, changes=changes
    )


def autoencoder(config: str, slice_: str, batch_size: int) -> dict[str, Any]:
    return train(config, slice_, batch_size, lpips__vgg_path="its shapes are all that is needed")


ADAPTERS = {"sd1_lora": "lora, rank 4, text encoder too", "sd1_textual_inversion": "textual_inversion"}


def adapter(name: str, slice_: str, batch_size: int) -> dict[str, Any]:
    """A row: one training step in bfloat16 of what Stable Diffusion 1 is taught, of ADAPTERS, which names rows of
    adapter_memory."""
    return dict(train(name, slice_, batch_size), what="adapter")


# Global batches are the published ones where the slice divides them, or else near them.
ROWS = [
    dict(what="yardstick", config="sd1", topology="v5e:1x1", batch_size=4),
    dict(what="yardstick", config="sd1 forward", topology="v5e:1x1", batch_size=8),
    train("celebahq_ldm4", "v5e:4x4", 48),
    train("shapes_text", "v5e:2x2", 32, first_stage_from="shapes"),
    train("shapes_kl_f4", "v5e:2x2", 32),
    train("shapes_text", "2xv5e:2x2", 64, "fsdp", first_stage_from="shapes"),
    train("text2img_1p4b", "v5e:8x8", 640, "fsdp"),
    train("text2img_1p4b", "v5e:8x8", 640, "fsdp", mesh__reduce_dtype="bfloat16"),
    train("sd1", "v5e:16x16", 2048, "fsdp"),
    train("sd1", "2xv5e:16x16", 4096, "fsdp"),
    train("sdxl_base", "v5p:2x4x4", 256, "fsdp", model__remat="dots"),
    sample("sd1", "v5e:1x1", 4),
    autoencoder("kl_f8", "v5e:4x4", 96),
    autoencoder("vq_f4", "v5e:4x4", 64),
    train("ffhq_ldm4", "v5e:4x4", 48),
    train("lsun_bedrooms_ldm4", "v5e:4x4", 48),
    train("lsun_churches_ldm8", "v5e:4x4", 96),
    train("imagenet_ldm4", "v5e:8x8", 1216),
    train("imagenet_ldm8", "v5e:4x4", 64),
    train("text2img_256", "v5e:8x8", 640),
    train("layout_openimages", "v5e:4x4", 48),
    train("semantic_256", "v5e:4x4", 48),
    train("semantic_512", "v5e:4x4", 48),
    train("superres_bsr", "v5e:4x4", 64),
    train("inpainting_big", "v5e:4x4", 64),
    train("rdm_768", "v5e:8x8", 640, "fsdp"),
    train("sd1_inpainting", "v5e:16x16", 2048, "fsdp"),
    train("sd2", "v5e:16x16", 2048, "fsdp"),
    train("sd2_v", "v5e:16x16", 2048, "fsdp"),
    train("sd2_inpainting", "v5e:16x16", 2048, "fsdp"),
    train("sd2_depth", "v5e:16x16", 2048, "fsdp"),
    train("sd_x4_upscaler", "v5e:8x16", 1024, "fsdp"),
    train("sdxl_refiner", "v5p:2x4x4", 256, "fsdp"),
    train("sd_turbo", "v5e:16x16", 2048, "fsdp"),
    train("sdxl_turbo", "v5p:2x4x4", 256, "fsdp"),
    autoencoder("kl_f4", "v5e:4x4", 64),
    autoencoder("kl_f16", "v5e:4x4", 64),
    autoencoder("kl_f32", "v5e:4x4", 64),
    autoencoder("vq_f4_noattn", "v5e:4x4", 64),
    autoencoder("vq_f8", "v5e:4x4", 64),
    autoencoder("vq_f8_n256", "v5e:4x4", 64),
    autoencoder("vq_f16", "v5e:4x4", 64),
    sample("celebahq_ldm4", "v5e:1x1", 8),
    sample("sdxl_base", "v6e:1x1", 1),
    train("celebahq_ldm4", "v5e:4x4", 48, effort=0.0),
    adapter("sd1_lora", "v5e:1x1", 4),
    adapter("sd1_textual_inversion", "v5e:1x1", 4),
]


def config_with(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """configs/<name>.py, with `changes` by dotted keys. Raises: ValueError if it is not there."""
    config = load_config(name)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[last] = value
    return config


def run(row: dict[str, Any]) -> dict[str, Any]:
    """What `row` asks, as a report of dry_run."""
    jax.config.update("jax_exec_time_optimization_effort", row.get("effort", 0.0))
    if row["what"] == "yardstick":
        return yardstick(row["topology"], row["batch_size"], row["config"] == "sd1 forward")
    if row["what"] == "adapter":
        of = adapter_memory.ROWS[ADAPTERS[row["config"]]]
        return dry_run.training(adapter_memory.config_of(*of) | row["changes"], row["topology"])
    config = config_with(row["config"], row["changes"])
    if row["what"] == "train":
        return dry_run.training(config, row["topology"])
    settings = resolve_settings(config["sampling"])
    return dry_run.sampling(config, row["topology"], row["batch_size"], settings)


def yardstick(slice_name: str, batch_size: int, forward: bool) -> dict[str, Any]:
    """Stable Diffusion 1's UNet on one chip, in bfloat16, nothing recomputed: its prediction, with parameters as
    sampling has them, or its loss and gradients, with float32 parameters. `kernel_flops` of the FLOPs are those of
    Pallas kernels, which the compiler counts only as far as it is told them."""
    slice_, devices = topology.open_slice(slice_name)
    options = config_with("sd1", {})["model"] | dict(remat=False)
    unet = UNet(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}, dtype=jnp.bfloat16)
    shape = jax.ShapeDtypeStruct
    x, t = shape((batch_size, 64, 64, 4), jnp.float32), shape((batch_size,), jnp.int32)
    cond = Cond(context=shape((batch_size, 77, unet.context_dim), jnp.float32))
    params = jax.eval_shape(unet.init, jax.random.key(0), x, t, cond)["params"]
    if forward:
        params = jax.eval_shape(lambda p: layers.cast(p, jnp.bfloat16), params)
    sharding = NamedSharding(Mesh(np.asarray(devices[:1]), ("devices",)), PartitionSpec())
    predict, loss = speed_models.network_programs(unet)
    program, arrays = (predict, (x, t, cond)) if forward else (jax.value_and_grad(loss), (x, t, cond, x))
    args = jax.tree.map(lambda a: shape(a.shape, a.dtype, sharding=sharding), (params, *arrays))
    jitted = jax.jit(program, compiler_options=parallel.compiler_options(devices))
    cost = topology.compile_for(slice_, jitted, *args)
    model_flops = flops.count(predict, *args[:4]) * (1 if forward else 3)
    return topology.report(slice_, cost, model_flops) | dict(kernel_flops=flops.of_kernels(program, *args))


# ------------------------------------------------------------------------------------------------------------ the
# results


def read_results() -> list[dict[str, Any]]:
    return report.read(RESULTS)


def append(row: dict[str, Any], cost: dict[str, Any]) -> None:
    line = dict(row, report=cost, jax=jax.__version__, libtpu=libtpu_version())
    report.append(RESULTS, [line | dict(date=time.strftime("%Y-%m-%d"))])


def libtpu_version() -> str:
    return importlib.metadata.version("libtpu")


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """A row, or a line of the results, without its answer."""
    return {k: row[k] for k in ("what", "config", "topology", "batch_size", "effort", "changes") if k in row}


def table(results: list[dict[str, Any]]) -> str:
    """The results in markdown, in the order of ROWS; of several of one row, the last."""
    header = [
        "",
        "slice",
        "batch",
        "way",
        "effort",
        "fits",
        "HBM",
        "temp.",
        "TFLOP",
        "GB",
        "links GB",
        "between slices GB",
        "step",
        "bound by",
        "MFU ≤",
    ]
    lines = [header, ["---"] * len(header)]
    for row in ROWS:
        found = [line for line in results if asked(line) == asked(row)]
        if found:
            lines += [cells(row, found[-1]["report"], name) for name in programs(found[-1])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def programs(line: dict[str, Any]) -> list[str]:
    return ["latents", "decode"] if line["what"] == "sample" else [""]


def cells(row: dict[str, Any], cost: dict[str, Any], name: str) -> list[str]:
    one = cost[name] if name else cost
    kinds = dict(train="training", adapter="training", sample="sample", yardstick="loss and gradients")
    label = row["config"] if row["config"].endswith("forward") else f"{row['config']}, {kinds[row['what']]}"
    label += f", {name}" if name else ""
    way = cost.get("parallelism", {}).get("way", "")
    way += ", first sums in bfloat16" if row.get("changes", {}).get("mesh.reduce_dtype") == "bfloat16" else ""
    batch = str(cost.get("batch_size", row.get("batch_size", "")))
    hbm = one["hbm"]
    out = [
        label,
        one["topology"],
        batch,
        way,
        "least" if row.get("effort") == QUICK else "usual",
        "yes" if one["fits"] else "**no**",
        f"{hbm['peak'] / 1e9:.1f} GB",
    ]
    if "roofline" not in one:
        return out + [""] * 8
    sent = sum(kind["sent_bytes"] for kind in one["collectives"].values())
    line, in_hbm = one["roofline"], one.get("hbm_bytes") or one["bytes"]  # the first lines have no hbm_bytes
    return [
        *out, f"{hbm['temporaries'] / 1e9:.1f} GB", f"{one['flops'] / 1e12:.2f}", f"{in_hbm / 1e9:.0f}",
        f"{sent / 1e9:.1f}", f"{one['between_slices_bytes'] / 1e9:.2f}" if one.get("between_slices_bytes") else "",
        f"{line['step'] * 1e3:.0f} ms", line["bound"], f"{one['mfu_bound']:.0%}",
    ]  # fmt: skip


def write_table(results: list[dict[str, Any]]) -> None:
    """Puts the table in its place in docs/benchmarks.md. Raises: ValueError if there is none."""
    report.put(DOCUMENT, "tpu_cost", table(results))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", help="names of configs, or kinds of rows (train, sample, yardstick), with commas"
    )
    parser.add_argument("--table", action="store_true", help="compile nothing")
    args = parser.parse_args(argv)
    wanted = args.only.split(",") if args.only else None
    known = {name for row in ROWS for name in (row["what"], row["config"])}
    if unknown := sorted(set(wanted or ()) - known):
        sys.exit(f"error: --only {unknown[0]!r} is no row; there are {', '.join(sorted(known))}")
    failed = 0
    for row in [] if args.table else ROWS:
        there = any(asked(line) == asked(row) for line in read_results())
        if there or (wanted and not {row["what"], row["config"]} & set(wanted)):
            continue
        print(f"{time.strftime('%H:%M:%S')} {json.dumps(asked(row))}", flush=True)
        try:
            append(row, run(row))
        except Exception:  # the others are still of use
            traceback.print_exc()
            failed += 1
        jax.clear_caches()
        write_table(read_results())
    write_table(read_results())
    if failed:
        sys.exit(f"error: {failed} rows failed, for the reasons above")


if __name__ == "__main__":
    main()
