#!/usr/bin/env bash
# diffusers 0.42.1, DDIMScheduler and PNDMScheduler: a step leads to timestep t - T // S, whatever is visited next.
#
# Under timestep_spacing "linspace" the next call of the network is at another timestep (10 steps of 1000: a step from 999 leads
# to the noise level of 899, and the next call is told 888), so that the picture keeps noise that no step removes. "trailing" has
# the same where S does not divide T (30 steps: 0.010), "leading" never. DDPMScheduler steps to what it visits next.
#
# Shown with the exact eps of a Gaussian (mean 0.4, standard deviation 0.5), whose chain 999 -> 888 -> ... is worked out beside
# it. Seen: largest difference of the last x from that chain, 0.61, 0.17, 0.048, 0.019 at 4, 10, 30, 50 steps of "linspace"; below
# 1e-7 at the same numbers of "leading".
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "diffusers==0.42.1" "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import DDIMScheduler

MEAN, STD = 0.4, 0.5


def exact_eps(x, bar):
    return (1 - bar) ** 0.5 * (x - bar**0.5 * MEAN) / (bar * STD**2 + 1 - bar)


def difference(spacing, num_steps):
    scheduler = DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(num_steps)
    bars, steps = scheduler.alphas_cumprod.double(), scheduler.timesteps.tolist()
    x = chain = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for t, following in zip(steps, steps[1:] + [-1]):
        x = scheduler.step(exact_eps(x, bars[t]), t, x).prev_sample
        eps, bar = exact_eps(chain, bars[t]), bars[following] if following >= 0 else torch.ones(())
        x_start = (chain - (1 - bars[t]) ** 0.5 * eps) / bars[t] ** 0.5
        chain = bar**0.5 * x_start + (1 - bar) ** 0.5 * eps
    return float((x - chain).abs().max())


for spacing in ("leading", "linspace"):
    for num_steps in (4, 10, 30, 50):
        found = difference(spacing, num_steps)
        print(f"{spacing:9} {num_steps:3} steps: {found:.2g}")
        assert (found > 0.01) == (spacing == "linspace"), (spacing, num_steps, found)
PYTHON
