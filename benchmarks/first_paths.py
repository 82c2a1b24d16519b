"""How long each way into the package takes on next to nothing, in a fresh environment, command by command:

    python benchmarks/first_paths.py                    all of PATHS
    python benchmarks/first_paths.py --paths "parquet"  some; --keep FOLDER goes on with an environment that is there

makes an environment, installs this checkout there as a user would, and runs the commands of each path with an empty
cache. Each path adds a line of JSON to benchmarks/results/first_paths.jsonl, of which benchmarks/report.py makes a
table: seconds of the wall, and of processors (`cpu`), which what else the machine does changes less. What commands
read is written before, by this environment: 16 pictures of 64 x 64 with captions, and a Stable Diffusion 1 of 16 x 16
pixels with random weights.
"""

import argparse
import io
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report  # noqa: E402  (a script has its own folder on the path, and not the repository)

TRAIN = "ldm-train --config folder_text:runlocal --config.data.recipe=plain --config.data.holdout=0.2"
DRAW = 'ldm-sample --checkpoint RUN --prompt "a red circle" --seeds 0-3 --out drawn'
ANSWERS = """python -c "
import subprocess, time, urllib.request
page = subprocess.Popen(['ldm-web', '--port', '7999'])
while page.poll() is None:
    try:
        assert b'gradio' in urllib.request.urlopen('http://127.0.0.1:7999').read()
        break
    except OSError:
        time.sleep(0.2)
assert page.poll() is None
page.terminate()
page.wait()
\""""
DATA = ("PHOTOS", "PARQUET", "TARS", "sd1.safetensors", "CLIP", "FLAX")
PATHS = {  # what one has: the commands, or {what is shown of one: the command}
    "the package": ["python3 -m venv ENV", "pip install 'CHECKOUT[data]'"],
    "the shipped model": ['ldm-sample --prompt "a red circle" --seeds 0-3 --out drawn'],
    "own pictures, with captions": [
        "ldm-train --config folder_kl_f4:runlocal --config.data.name=folder --config.data.root=PHOTOS --workdir FIRST",
        f"{TRAIN} --config.data.name=folder --config.data.root=PHOTOS --config.first_stage_from=FIRST --workdir RUN",
        DRAW,
    ],
    "Parquet": [f"{TRAIN} --config.data.name=parquet --config.data.root=PARQUET --workdir RUN", DRAW],
    "tars of webdataset": [
        f"{TRAIN} --config.data.name=webdataset --config.data.root=TARS --workdir RUN",
        DRAW,
    ],
    "a file of Stable Diffusion, tuned": [
        "ldm-train --config finetune:runlocal --config.base=sd1.safetensors --config.base_tokenizer=CLIP "
        "--config.data.recipe=plain --config.data.name=folder --config.data.root=PHOTOS --config.data.holdout=0.2 "
        "--workdir RUN",
        DRAW,
    ],
    "a folder of diffusers' Flax pipeline": [
        'ldm-sample --checkpoint FLAX --prompt "a red circle" --seeds 0-3 --steps 10 --out drawn',
        "ldm-convert FLAX BUNDLE",
    ],
    "the page": {
        "pip install 'CHECKOUT[web]'": "pip install 'CHECKOUT[web]'",
        "ldm-web": ANSWERS,
    },
}


def write_data(folder: Path) -> None:
    """DATA, which the commands read."""
    import numpy as np
    from PIL import Image

    from ldm_jax.checkpoints import bundle, write
    from ldm_jax.checkpoints.open import open_checkpoint
    from tests.checkpoints.flax_folders import make_flax
    from tests.data import written_shards
    from tests.tiny_models import stable_diffusion_1

    rng, pictures = np.random.default_rng(0), []
    for i in range(16):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(file, "PNG")
        pictures.append((f"{i:06d}.png", file.getvalue(), f"a red circle beside picture {i}"))
    written_shards.folder(folder / "PHOTOS", pictures)
    written_shards.FORMATS["parquet"](folder / "PARQUET", pictures)
    written_shards.FORMATS["webdataset"](folder / "TARS", pictures)
    bundle.save(folder / "sd1", stable_diffusion_1(folder / "CLIP"))
    model = open_checkpoint(folder / "sd1")
    write.write(model, folder / "sd1.safetensors", "compvis")
    write.write(model, folder / "FLAX", "diffusers")
    make_flax(folder / "FLAX")
    shutil.rmtree(folder / "sd1")


def run(name: str, folder: Path, env: Path) -> dict[str, Any]:
    """The line of a path. Raises: SystemExit with what a command said that failed."""
    paths = f"{env / 'bin'}:{os.environ['PATH']}"
    environ = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {
        "PATH": paths
    }
    work, found, commands = Path(tempfile.mkdtemp(dir=folder)), [], PATHS[name]
    for data in DATA:
        (work / data).symlink_to(folder / data)
    for shown in commands:
        command = commands[shown] if isinstance(commands, dict) else shown
        command = command.replace("CHECKOUT", str(ROOT)).replace("ENV", str(env))
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            ["bash", "-c", command], cwd=work, capture_output=True, text=True,
            env=environ | {"XDG_CACHE_HOME": str(work / "cache"), "PIP_CACHE_DIR": str(work / "cache")},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"{command}\n{done.stdout}\n{done.stderr}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        wall = time.perf_counter() - start
        found.append(dict(command=shown, wall=round(wall, 1), cpu=round(cpu, 1)))
        print(f"{wall:6.1f} s, {cpu:6.1f} s of processors  {shown}", file=sys.stderr, flush=True)
    shutil.rmtree(work)
    about = dict(python=platform.python_version(), cores=os.cpu_count(), load=round(os.getloadavg()[0], 1))
    return dict(path=name, commands=found, **about, day=time.strftime("%Y-%m-%d"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paths", help="names of PATHS, parted by ;")
    parser.add_argument("--keep", help="folder of the environment and the data, which stays")
    args = parser.parse_args()
    names = args.paths.split(";") if args.paths else list(PATHS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "PHOTOS").exists():
            write_data(folder)
        for name in names:
            line = run(name, folder, folder / "environment")
            report.append(report.FIRST_PATHS, [line])
    report.put(report.DOCUMENT, "first_paths", report.paths_table(report.read(report.FIRST_PATHS)))


if __name__ == "__main__":
    main()
