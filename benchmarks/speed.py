"""How fast this package is beside PyTorch (diffusers), with the same random weights, on this machine; one question per
run:

    python benchmarks/speed.py forward --model small
    python benchmarks/speed.py gradients --model small --rounds 10
    python benchmarks/speed.py sampling --model sd1 --batch_size 4 --torch compile

forward: the UNet's prediction. gradients: its loss and their gradients. train_step: the same and AdamW's update.
sampling: text encoder, DDIM steps with guidance 7.5, first stage, uint8 pictures on the host. decode: the first stage
alone. first_image: from the start of a process to one picture, with no compiled program on disk and with those that the
run before left there.

Each backend has a process of its own; they take turns, A B A B. What both answer first is compared, and then each of
the rounds is timed. A JSON line per backend, both with the same `run`, is printed and appended to
benchmarks/results/speed.jsonl; of these benchmarks/report.py makes the tables.
Computing is float32 without TF32 on a CPU, and bfloat16 (TF32 where float32 is left) on a GPU, unless --dtype says
otherwise.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks import report, speed_turns  # noqa: E402  (a script has its own folder on the path, and not the repository)

RESULTS = ROOT / "benchmarks" / "results" / "speed.jsonl"
QUESTIONS = ("forward", "gradients", "train_step", "sampling", "decode", "first_image")
MODELS = ("tiny", "tiny_sdxl", "tiny_ldm4", "small", "shapes", "sd1", "sdxl", "ldm4")
STEPS = dict(sdxl=30)
BATCH = dict(small=4, shapes=32)
# Between turns, so that threads of the one side that spin while they wait for work have gone to sleep.
PAUSE = 0.3
# Of float32 answers: the error relative to the answer's norm, and for pictures the largest difference of 255.
TOLERANCE, PICTURE_TOLERANCE = 1e-3, 2
# FLOP/s in bfloat16 that large products reach on a card, for the arithmetic floor; MFU is of the data sheet's peak.
REACHED = {"NVIDIA H200": 790e12}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("question", choices=QUESTIONS)
    add("--model", choices=MODELS, required=True, help="the tiny ones are for tests")
    add("--backend", choices=("jax", "torch", "both"), default="both")
    add("--batch_size", type=int)
    add("--dtype", choices=("float32", "bfloat16"))
    add("--rounds", type=int, default=5)
    add("--steps", type=int, help="of sampling: by default 50, of SDXL 30")
    add("--torch", choices=("eager", "channels_last", "compile"), default="channels_last",
        help="compile is torch.compile and channels_last")  # fmt: skip
    add("--compile_mode", default="default", help="of torch.compile")
    add("--device", choices=("cpu", "gpu"), default="gpu" if Path("/dev/nvidia0").exists() else "cpu")
    add(
        "--weights",
        type=Path,
        help="a folder that keeps the random weights for the next run (by default none does)",
    )
    add("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    for name in ("batch_size", "rounds", "steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: got {value}, expected at least 1")
    return args


def missing_torch() -> str | None:
    """The sentence that says what PyTorch's side lacks, or None."""
    lacking = [
        name for name in ("torch", "diffusers", "transformers") if importlib.util.find_spec(name) is None
    ]
    if not lacking:
        return None
    return (
        f"PyTorch's side needs {' and '.join(lacking)}, which pip install 'ldm_jax[test]' brings; or say "
        f"--backend jax"
    )


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results, one for each backend. Raises: RuntimeError if a side fails or the answers differ."""
    backends = ("jax", "torch") if args.backend == "both" else (args.backend,)
    with tempfile.TemporaryDirectory() as folder:
        kept = args.weights / args.model if args.weights else Path(folder) / "weights"
        request = request_of(args, kept, Path(folder))
        prepare(request)
        measure = first_image if args.question == "first_image" else in_turns
        measured = measure(request, backends, args.rounds)
        difference = compare(request, backends)
        facts = json.loads((Path(folder) / "facts.json").read_text())
    facts |= dict(
        difference=difference, date=time.strftime("%Y-%m-%d"), commit=commit(), run=uuid.uuid4().hex[:12]
    )
    return [
        line(args.question, backend, request, args.rounds, facts, measured[backend]) for backend in backends
    ]


def request_of(args: argparse.Namespace, weights: Path, folder: Path) -> dict[str, Any]:
    """What the children are told, plain data. weights: where the model lies or is to lie; folder: of this run's inputs
    and answers."""
    return dict(
        question="sampling" if args.question == "first_image" else args.question,
        model=args.model,
        batch_size=args.batch_size or BATCH.get(args.model, 1),
        dtype=args.dtype or ("bfloat16" if args.device == "gpu" else "float32"),
        steps=args.steps or STEPS.get(args.model, 50),
        torch=args.torch,
        compile_mode=args.compile_mode,
        device=args.device,
        learning_rate=1e-5,
        guidance_scale=7.5,
        weights=str(weights.resolve()),
        run=str(folder),
    )


def prepare(request: dict[str, Any]) -> None:
    """Weights and inputs on disk, made on the CPU by a process that is gone when the timing begins."""
    command = [sys.executable, "-m", "benchmarks.speed_models", json.dumps(request)]
    env = speed_turns.environment(JAX_PLATFORMS="cpu")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{request['model']} could not be prepared: {done.stderr.strip()[-3000:]}")


def child(backend: str, request: dict[str, Any], cache: Path | None = None) -> speed_turns.Child:
    """Starts a backend. cache: a folder for compiled programs; None leaves it to the environment."""
    platforms = "cuda" if request["device"] == "gpu" else "cpu"
    env = speed_turns.environment(JAX_PLATFORMS=platforms, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    if request["device"] == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    if cache is not None:
        env |= dict(
            JAX_COMPILATION_CACHE_DIR=str(cache / "jax"), TORCHINDUCTOR_CACHE_DIR=str(cache / "torch")
        )
    return speed_turns.Child(backend, request, env)


def in_turns(request: dict[str, Any], backends: tuple[str, ...], rounds: int) -> dict[str, dict[str, Any]]:
    """{backend: its facts, 'seconds' and what the first call took}. One after the other starts, and then they take
    turns."""
    children, told = {}, {}
    try:
        for backend in backends:
            children[backend] = child(backend, request)
            told[backend] = children[backend].read() | children[backend].read()
        seconds: dict[str, list[float]] = {backend: [] for backend in backends}
        for _ in range(rounds):
            for backend in backends:
                time.sleep(PAUSE)
                seconds[backend].append(children[backend].go())
    finally:
        for one in children.values():
            one.close()
    return {backend: told[backend] | dict(seconds=spread(seconds[backend])) for backend in backends}


def first_image(request: dict[str, Any], backends: tuple[str, ...], rounds: int) -> dict[str, dict[str, Any]]:
    """{backend: its facts, and 'seconds' from the start of a process to its first pictures, 'cold' and 'warm'}."""
    seconds: dict[str, dict[str, list[float]]] = {backend: dict(cold=[], warm=[]) for backend in backends}
    told = {}
    for _ in range(rounds):
        for backend in backends:
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    one = child(backend, request, Path(cache))
                    try:
                        told[backend] = one.read()
                        seconds[backend][state].append(time.perf_counter() - one.started)
                        told[backend] |= one.read()
                    finally:
                        one.close()
    for values in told.values():
        del values["open_seconds"], values["first_call_seconds"]
    return {b: told[b] | dict(seconds={k: spread(v) for k, v in seconds[b].items()}) for b in backends}


def spread(seconds: list[float]) -> dict[str, float]:
    return dict(median=statistics.median(seconds), min=min(seconds), max=max(seconds))


def compare(request: dict[str, Any], backends: tuple[str, ...]) -> dict[str, float] | None:
    """How far apart the first answers are, by name: |a - b| / |b| (2-norms), of pictures the largest difference of 255.

    Raises: RuntimeError in float32 for more than rounding, and for an answer that is not finite.
    """
    if len(backends) < 2:
        return None
    ours, theirs = (dict(np.load(Path(request["run"]) / f"{name}.npz")) for name in ("jax", "torch"))
    found = {}
    for name, expected in theirs.items():
        got, expected = ours[name].astype(np.float64), expected.astype(np.float64)
        if got.shape != expected.shape or not (np.isfinite(got).all() and np.isfinite(expected).all()):
            raise RuntimeError(
                f"{name}: got {got.shape} and {expected.shape}, expected one shape and finite numbers"
            )
        off = got - expected
        found[name] = float(
            np.abs(off).max() if name == "pictures" else np.linalg.norm(off) / np.linalg.norm(expected)
        )
        limit = PICTURE_TOLERANCE if name == "pictures" else TOLERANCE
        if request["dtype"] == "float32" and found[name] > limit:
            raise RuntimeError(
                f"{name} of the two backends: got a difference of {found[name]:.3g}, expected at most {limit}"
            )
    return found


def line(question, backend, request, rounds, facts: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """One result. facts: of the model and the run, told: what the child said, with its 'seconds'."""
    keep = ("model", "batch_size", "dtype") + (("steps",) if request["question"] == "sampling" else ())
    out = dict(question=question, backend=backend) | {name: request[name] for name in keep}
    if backend == "torch":
        out["torch"] = request["torch"]
        if request["torch"] == "compile":
            out["compile_mode"] = request["compile_mode"]
    told = {k: v for k, v in told.items() if k != "event"}
    device, peak = told.pop("device"), told.pop("peak_flops", None)
    hardware = dict(
        kind=device or "cpu", cpu=cpu_name(), cores=len(os.sched_getaffinity(0)), machine=platform.machine()
    )
    out |= dict(hardware=hardware, rounds=rounds) | told | facts
    if device:
        out["tf32"] = request["dtype"] != "float32"
    return out | utilization(question, out, peak)


def utilization(question: str, result: dict[str, Any], peak: float | None) -> dict[str, float]:
    """On a known GPU: MFU, the seconds that the FLOPs take at REACHED, and how many times that it took. peak: FLOP/s,
    or None."""
    reached = REACHED.get(result["hardware"]["kind"])
    if question == "first_image" or reached is None:
        return {}
    if peak is None:  # torch's side does not know it
        from ldm_jax.xla.utilization import PEAKS

        peak = PEAKS[result["hardware"]["kind"]]
    median, floor = result["seconds"]["median"], result["model_flops"] / reached
    return dict(mfu=result["model_flops"] / median / peak, floor_seconds=floor, times_floor=median / floor)


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (text.partition(":")[2].strip() for text in lines if text.startswith("model name")),
        platform.processor(),
    )


def commit() -> str | None:
    """This tree's commit, with a + if tracked files differ from it; None outside a repository."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    return said.stdout.strip() or None


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.backend != "jax" and (sentence := missing_torch()):
        sys.exit(sentence)
    try:
        results = run(args)
    except RuntimeError as error:
        sys.exit(str(error))
    report.append(args.results, results)
    for result in results:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
