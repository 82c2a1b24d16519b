"""Measures what samplers lose in few steps where the network is exactly right, and writes a table of docs/samplers.md:

    python benchmarks/sampler_exact.py

The data are 16 points of 8 numbers, each with noise of standard deviation 0.2 around it, for which the expected noise
has a closed form; the schedule is Stable Diffusion's. Of a deterministic sampler the figure is how far its 1024 samples
end from where the probability flow ODE takes the same noise (Heun's method in 200 steps), root mean square, relative to
the samples'. Of a stochastic one, which ends elsewhere each time, it is how far the variance around the nearest point
is from 0.2^2, relative to that.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "samplers.md"
STEPS, SPACINGS = (5, 10, 20, 50), ("uniform", "karras")
STD, NUMBER = 0.2, 1024


def measure(names: list[str]) -> dict[tuple[str, str], list[float]]:
    """{(sampler, spacing): [the figure at each number of STEPS]}."""
    import jax
    import jax.numpy as jnp

    from ldm_jax.diffusion.schedule import make_schedule
    from ldm_jax.diffusion.timesteps import make_timesteps
    from ldm_jax.find import find
    from ldm_jax.samplers.base import keys_of, sample, step_noise
    from tests.samplers.oracle import eps_fn

    schedule = make_schedule("linear", 1000, 0.00085, 0.012)
    points = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8)), jnp.float32)
    exact, keys = eps_fn(schedule, points, STD), keys_of(jnp.arange(NUMBER, dtype=jnp.uint32))
    x_T = step_noise(keys, (NUMBER, 8), "x_T")

    def run(name: str, spacing: str, num_steps: int) -> np.ndarray:
        made = find("samplers", name).sampler(schedule)
        steps = make_timesteps(spacing, 1000, num_steps, schedule.sigmas)
        return np.asarray(jax.jit(lambda x, t: sample(exact, made, x, t, keys)[0])(x_T, steps))

    limit = run("heun", "uniform", 200)

    def figure(name: str, spacing: str, num_steps: int) -> float:
        x = run(name, spacing, num_steps)
        if not find("samplers", name).STOCHASTIC:
            return float(np.sqrt(np.square(x - limit).mean() / np.square(limit).mean()))
        squares = np.square(x[:, None] - np.asarray(points)).mean(2).min(1)
        return float(abs(squares.mean() / STD**2 - 1))

    return {
        (name, spacing): [figure(name, spacing, n) for n in STEPS] for name in names for spacing in SPACINGS
    }


def table(found: dict[tuple[str, str], list[float]]) -> str:
    """In markdown: a line for each sampler, with both spacings side by side; the calls of the network in S steps."""
    from benchmarks.sampler_quality import evaluations
    from ldm_jax.find import find

    head = [f"{n} steps, {spacing}" for spacing in SPACINGS for n in STEPS]
    rows = ["| sampler | calls in 20 steps | " + " | ".join(head) + " |", "|---" * (len(head) + 2) + "|"]
    for stochastic in (False, True):
        for name in dict.fromkeys(name for name, _ in found):
            if find("samplers", name).STOCHASTIC == stochastic:
                cells = [f"{value:.1%}" for spacing in SPACINGS for value in found[name, spacing]]
                kind = ", variance" if stochastic else ""
                rows.append(f"| `{name}`{kind} | {evaluations(name, 20)} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from benchmarks.report import put
    from benchmarks.sampler_quality import samplers

    found = measure(samplers())
    put(DOCUMENT, "sampler_exact", table(found))
    print(json.dumps({f"{name}, {spacing}": values for (name, spacing), values in found.items()}))


if __name__ == "__main__":
    main()
