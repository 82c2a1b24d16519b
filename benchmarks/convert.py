"""How long `ldm-convert` takes for a checkpoint of Stable Diffusion 1's size, and how much memory it needs:

    python benchmarks/convert.py --to bundle

writes a .ckpt of random numbers under the names and shapes of the published file (1,066 million parameters, 4.3 GB),
converts
it in a process of its own, and prints one JSON line: seconds, the file's size, the process's peak resident memory.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from ldm_jax.checkpoints import compvis, write
from ldm_jax.checkpoints.base import Checkpoint
from ldm_jax.convert import files, published
from ldm_jax.convert.tensor import Tensor
from ldm_jax.params import flatten, unflatten
from ldm_jax.system import make_system

CLIP_L = dict(
    vocab_size=49408, width=768, num_layers=12, num_heads=12, max_length=77, activation="quick_gelu"
)
KL_F8 = dict(name="kl", channels=128, channel_mult=[1, 2, 4, 4], num_res_blocks=2, z_channels=4, embed_dim=4)


def stable_diffusion_1() -> Checkpoint:
    """The model with random parameters that are drawn when they are read."""
    release = published.RELEASES["sd1"]
    fields = {k: v for k, v in release.match.items() if v is not None}
    config = dict(
        task="diffusion", first_stage=KL_F8, model=fields | dict(release.heads), **release.process()
    )
    config["conditioning"] = dict(name="clip", **CLIP_L)
    template = make_system(config).param_shapes()
    block = np.random.default_rng(0).normal(size=1 << 20).astype(np.float32)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return Tensor(shape, np.dtype("float32"), lambda: np.resize(block, shape))

    flat = {path: drawn(tuple(leaf.shape)) for path, leaf in flatten(template).items()}
    return Checkpoint(config, unflatten(flat), None, "bundle")


def main() -> None:
    """One JSON line per run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", choices=write.TARGETS, default="bundle")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default=None)
    parser.add_argument(
        "--folder", help="where the files go, and are removed from; default: a temporary folder"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source = Path(folder) / "sd1.ckpt"
        (tensors,) = compvis.parts(stable_diffusion_1()).values()
        files.write_ckpt(source, tensors)
        destination = Path(folder) / ("out.safetensors" if args.to == "compvis" else "out")
        command = [sys.executable, "-m", "ldm_jax.convert", str(source), str(destination), "--to", args.to]
        command += ["--dtype", args.dtype] if args.dtype else []
        start = time.time()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        seconds = time.time() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        row = dict(
            question="convert", to=args.to, dtype=args.dtype, seconds=round(seconds, 1),
            file_bytes=source.stat().st_size, peak_bytes=peak,
            peak_minus_file_gib=round((peak - source.stat().st_size) / 2**30, 2),
            jax=jax.__version__, machine=platform.machine(), cores=os.cpu_count(),
        )  # fmt: skip
        print(json.dumps(row))


if __name__ == "__main__":
    main()
