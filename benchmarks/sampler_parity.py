"""Compares the samplers with diffusers' schedulers, step by step, and writes the table of docs/samplers.md:

    python benchmarks/sampler_parity.py

Each scheduler class is configured as a scheduler_config.json would have it, read by ldm_jax.convert, and both sides
are run from one x_T with one toy network of x and t, and the same noise where there is any: for every timestep spacing
and sigma schedule that the class has, in 5, 10, 25 and 50 steps. The figure is the greatest relative difference, root
mean square, at any step. The network on their side is told the timestep at which this library has their noise
level; by how much that is beside the one that they tell it is a column of its own. DEIS is run in float64 there.
"""

import argparse
import functools
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "samplers.md"
COUNTS = (5, 10, 25, 50)
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}  # Stable Diffusion's
KINDS = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas", "beta": "use_beta_sigmas"}
LIMIT = 1e-5

# class and options. What is not here of diffusers' is told when a file is read (convert/diffusers_scheduler.py).
SCHEDULERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("DDPMScheduler", {"clip_sample": False}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DEISMultistepScheduler", {"solver_order": 3}),
    ("EulerDiscreteScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("TCDScheduler", {}),
)
EXPLODING = ("Euler", "Heun", "LMS", "KDPM2")  # whose x is x / signal


class Case(NamedTuple):
    """One line of the table. spacing: 'leading', 'linspace', 'trailing', or '' of a class that has none; kind: a sigma
    schedule or ''."""

    name: str
    options: tuple[tuple[str, Any], ...]
    prediction: str
    spacing: str
    kind: str

    @property
    def section(self) -> dict[str, Any]:
        """The scheduler_config.json."""
        spaced = {"timestep_spacing": self.spacing, "steps_offset": 1} if self.spacing else {}
        kinds = {KINDS[self.kind]: True} if self.kind else {}
        return (
            {"_class_name": self.name, "prediction_type": self.prediction}
            | NOISE
            | dict(self.options)
            | spaced
            | kinds
        )


def cases() -> Iterator[Case]:
    """All that both sides have. Of diffusers' DDIM and PNDM 'linspace' is no chain; PNDM extrapolates v itself."""
    from ldm_jax.convert.diffusers_scheduler_defaults import DEFAULTS

    for name, options in SCHEDULERS:
        has = DEFAULTS[name]
        spacings = ("leading", "linspace", "trailing") if "timestep_spacing" in has else ("",)
        if name in ("DDIMScheduler", "PNDMScheduler"):
            spacings = ("leading", "trailing")
        if name in ("LCMScheduler", "TCDScheduler"):
            spacings = ("",)
        for prediction in ("epsilon",) if name == "PNDMScheduler" else ("epsilon", "v_prediction"):
            for spacing in spacings:
                yield Case(name, tuple(options.items()), prediction, spacing, "")
            for kind in KINDS if KINDS["karras"] in has else ():
                for spacing in spacings if name.startswith(EXPLODING) else spacings[:1]:
                    yield Case(name, tuple(options.items()), prediction, spacing, kind)


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """(x_T [2, 4, 4, 3], noises [50, 2, 4, 4, 3])."""
    x_T = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    return x_T, np.random.default_rng(1).normal(size=(50, *x_T.shape)).astype(np.float32)


def level_of_call(scheduler) -> float:
    """The noise, relative to the signal, of the x that a scheduler with sigmas has the network called on next."""
    index = scheduler.step_index
    if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
        return float(scheduler.sigmas_interpol[index - ("Ancestral" in type(scheduler).__name__)])
    return float(scheduler.sigmas[index])


def theirs(case: Case, num_steps: int, sigmas: np.ndarray) -> tuple[np.ndarray, float]:
    """(x after every step [S, B, ...], how far beside its timestep the network was told it is)."""
    import diffusers
    import torch

    x_T, noises = inputs()
    scheduler = getattr(diffusers, case.name).from_config(case.section)
    drawn = iter(noises)
    module = inspect.getmodule(type(scheduler))
    had = getattr(module, "randn_tensor", None)
    if had is not None:
        module.randn_tensor = lambda shape, **options: torch.tensor(next(drawn))
    try:
        scheduler.set_timesteps(num_steps)
        if hasattr(
            scheduler, "set_begin_index"
        ):  # else it begins at the second of two timesteps that are rounded to one
            scheduler.set_begin_index(0)
        exploding = case.name.startswith(EXPLODING)
        x, out, beside = torch.tensor(x_T), [], 0.0
        if case.name.startswith(
            "DEIS"
        ):  # whose coefficients are differences that float32 leaves few digits of
            scheduler.sigmas, x = scheduler.sigmas.double(), x.double()
        if exploding:
            x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
        for i, t in enumerate(scheduler.timesteps):
            told = float(t)
            if hasattr(scheduler, "sigmas"):
                if scheduler.step_index is None:
                    scheduler._init_step_index(t)
                if case.kind or "KDPM2" in case.name:
                    told = float(np.interp(level_of_call(scheduler), sigmas, np.arange(len(sigmas))))
                    beside = max(beside, abs(told - float(t)))
            x = scheduler.step(toy_torch(scheduler.scale_model_input(x, t), told), t, x).prev_sample
            out.append(x / (scheduler.sigmas[i + 1] ** 2 + 1) ** 0.5 if exploding else x)
    finally:
        if had is not None:
            module.randn_tensor = had
    path = torch.stack(out).numpy()
    if "Heun" in case.name or "KDPM2" in case.name:  # two calls a step, but for the last
        path = np.concatenate([path[1:-1:2], path[-1:]])
    if case.name == "PNDMScheduler":  # two calls at the first step
        path = path[min(num_steps, 2) - 1 :]
    return path, beside


def toy_torch(x, t):
    import torch

    return torch.tanh(1.3 * x) * (0.5 + 0.4 * t / 1000) + 0.2 * torch.sin(2 * x.flip(-1) + 0.01 * t)


def toy(x, t, control=None):
    import jax.numpy as jnp

    t = t.reshape(-1, 1, 1, 1)
    return jnp.tanh(1.3 * x) * (0.5 + 0.4 * t / 1000) + 0.2 * jnp.sin(2 * x[..., ::-1] + 0.01 * t), {}


@functools.lru_cache(maxsize=64)
def compiled(sampling: str, prediction: str):
    """(the sampler, its step, jitted once for all spacings and numbers of steps, the schedule) of a file as read."""
    import jax
    import jax.numpy as jnp

    from ldm_jax.diffusion.process import to_eps_fn
    from ldm_jax.diffusion.schedule import make_schedule
    from ldm_jax.find import find

    read = json.loads(sampling)
    schedule = make_schedule("linear", 1000, NOISE["beta_start"], NOISE["beta_end"])
    make = find("samplers", read.pop("sampler")).sampler
    options = read | read.pop("sampler_options", {})
    if "noise_fn" in inspect.signature(make).parameters:
        options["noise_fn"] = lambda info, x: jnp.asarray(inputs()[1])[info.index]
    sampler, eps_fn = make(schedule, **options), to_eps_fn(toy, schedule, prediction)
    return sampler, jax.jit(lambda state, x, info: sampler.step(eps_fn, state, x, info)[:2]), schedule


def ours(case: Case, num_steps: int) -> np.ndarray:
    """x after every step [S, B, ...] of a file as it is read. That a scan does the same is test_contract's."""
    import jax
    import jax.numpy as jnp

    from ldm_jax.convert.diffusers_scheduler import scheduler_sections
    from ldm_jax.diffusion.timesteps import make_timesteps
    from ldm_jax.samplers.base import StepInfo

    read = scheduler_sections(case.section)
    sampling = dict(read["sampling"])
    spacing = sampling.pop("spacing")
    sampler, step, schedule = compiled(json.dumps(sampling, sort_keys=True), read["prediction_type"])
    steps = make_timesteps(spacing, 1000, num_steps, schedule.sigmas)
    x, out = inputs()[0], []
    state = sampler.init(jnp.asarray(x))
    for i, (t, t_prev) in enumerate(zip(steps, np.append(steps[1:], steps.dtype.type(-1)), strict=True)):
        info = StepInfo(np.int32(i), t, t_prev, jax.random.key(0), np.int32(num_steps))
        state, x = step(state, x, info)
        out.append(np.asarray(x))
    return np.stack(out)


def difference(case: Case, num_steps: int) -> tuple[float, float]:
    """(the greatest relative difference at any step, how far beside its timestep their network is told it is)."""
    sigmas = exact_sigmas()
    mine, (path, beside) = ours(case, num_steps), theirs(case, num_steps, sigmas)
    if mine.shape != path.shape or not np.isfinite(path).all():
        return float("inf"), beside
    axes = tuple(range(1, mine.ndim))
    errors = np.sqrt(np.square(mine - path).mean(axes) / np.square(path).mean(axes))
    return float(errors.max()), beside


@functools.cache
def exact_sigmas() -> np.ndarray:
    """[1000] float64, noise relative to the signal."""
    betas = np.linspace(NOISE["beta_start"] ** 0.5, NOISE["beta_end"] ** 0.5, 1000) ** 2
    return np.sqrt(np.expm1(-np.cumsum(np.log1p(-betas))))


def table(found: dict[Case, list[tuple[float, float]]]) -> str:
    """In markdown, one line for each class, its options and its way of choosing levels; over all numbers of steps."""
    lines: dict[tuple, list[tuple[float, float]]] = {}
    for case, values in found.items():
        said = ", ".join(f"{k} {v}" for k, v in case.options if k not in ("clip_sample", "skip_prk_steps"))
        name = case.name.removesuffix("Scheduler") + (f", {said}" if said else "")
        lines.setdefault((name, case.spacing or "its own", case.kind or ""), []).extend(values)
    rows = [
        "| diffusers | spacing | sigmas | greatest relative difference | timestep told beside |",
        "|---|---|---|---|---|",
    ]
    for (name, spacing, kind), values in lines.items():
        error, beside = (max(v[i] for v in values) for i in (0, 1))
        rows.append(f"| {name} | {spacing} | {kind} | {error:.1e} | {f'{beside:.2g}' if beside else ''} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default=str(DOCUMENT), help="the document (default %(default)s)")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from benchmarks.report import put

    found = {case: [difference(case, n) for n in COUNTS] for case in cases()}
    put(Path(args.out), "sampler_parity", table(found))
    worst = max(error for values in found.values() for error, _ in values)
    print(json.dumps({"trajectories": sum(map(len, found.values())), "greatest": worst}))


if __name__ == "__main__":
    main()
