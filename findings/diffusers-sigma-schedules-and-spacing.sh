#!/usr/bin/env bash
# diffusers 0.42.1: what `use_karras_sigmas: true` does depends on the class.
#
# EulerDiscreteScheduler begins and ends at the noise of the timesteps that `timestep_spacing` chooses; DPMSolverMultistepScheduler
# and UniPCMultistepScheduler ignore `timestep_spacing` and span all training noise levels; EulerAncestralDiscreteScheduler takes
# the option, keeps it in its files and ignores it.
#
# Seen, 10 steps, Stable Diffusion's betas, largest and smallest sigma: Euler 8.391, 0.04131 (leading, offset 1) and 14.615, 0.3417
# (trailing); DPMSolverMultistep and UniPC 14.615, 0.02917 under either; EulerAncestral as without the option.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "diffusers==0.42.1" "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers


def sigmas(name, spacing, karras):
    scheduler = getattr(diffusers, name).from_config(
        dict(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            timestep_spacing=spacing, use_karras_sigmas=karras,
        )
    )
    scheduler.set_timesteps(10)
    return scheduler.sigmas[:-1]


def ends(name, spacing):
    found = sigmas(name, spacing, True)
    print(f"{name:32} {spacing:9} {float(found[0]):.3f} {float(found[-1]):.4g}")
    return float(found[0]), float(found[-1])


euler = [ends("EulerDiscreteScheduler", spacing) for spacing in ("leading", "trailing")]
assert euler[0] != euler[1], euler
for name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
    both = [ends(name, spacing) for spacing in ("leading", "trailing")]
    assert both[0] == both[1] and both[0][0] > 14 and both[0][1] < 0.03, both
for spacing in ("leading", "trailing"):
    plain, karras = (sigmas("EulerAncestralDiscreteScheduler", spacing, on) for on in (False, True))
    assert bool((plain == karras).all())
print("EulerAncestralDiscreteScheduler: the same with and without")
PYTHON
