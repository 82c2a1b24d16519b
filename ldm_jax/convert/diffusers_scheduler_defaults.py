"""The defaults of diffusers' scheduler classes, used for options missing from scheduler_config.json.

Source: diffusers 0.42.1 schedulers/scheduling_*.py, the signatures of the classes; a test compares them with those of
the installed diffusers. An option that a class does not have is kept in its files and ignored by it (`from_config` of
another class leaves such ones behind), so that a table of options is also a table of what counts.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

VERSION = "0.42.1"

_NOISE = dict(
    num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear", trained_betas=None,
    prediction_type="epsilon",
)  # fmt: skip
_KARRAS_NOISE = _NOISE | dict(beta_start=0.00085, beta_end=0.012)
_LEADING = dict(timestep_spacing="leading", steps_offset=0)
_LINSPACE = dict(timestep_spacing="linspace", steps_offset=0)
_ZERO_SNR = dict(rescale_betas_zero_snr=False)
_CLIP = dict(clip_sample=True, clip_sample_range=1.0)
_THRESHOLD = dict(thresholding=False, dynamic_thresholding_ratio=0.995, sample_max_value=1.0)
_SIGMAS = dict(use_karras_sigmas=False, use_exponential_sigmas=False, use_beta_sigmas=False)
_FLOW = dict(use_flow_sigmas=False, flow_shift=1.0, use_dynamic_shifting=False, time_shift_type="exponential")
_MULTISTEP = _NOISE | _THRESHOLD | _SIGMAS | _FLOW | dict(lower_order_final=True)
_DPM = dict(
    solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint", final_sigmas_type="zero",
    lambda_min_clipped=-float("inf"), variance_type=None,
)  # fmt: skip
_DDIM = _NOISE | _CLIP | _THRESHOLD | _LEADING | _ZERO_SNR | dict(set_alpha_to_one=True)
_DDPM = _NOISE | _CLIP | _THRESHOLD | _LEADING | _ZERO_SNR | dict(variance_type="fixed_small")
_CONSISTENCY = (
    _DDIM
    | _KARRAS_NOISE
    | dict(
        beta_schedule="scaled_linear", clip_sample=False, original_inference_steps=50, timestep_scaling=10.0
    )
)

# class -> {option: default}: every class that is read, be it as one that draws as this library does or as its nearest
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "DDIMScheduler": _DDIM,
        "DDIMParallelScheduler": _DDIM,
        "DDPMScheduler": _DDPM,
        "DDPMParallelScheduler": _DDPM,
        "PNDMScheduler": _NOISE | _LEADING | dict(skip_prk_steps=False, set_alpha_to_one=False),
        "DPMSolverMultistepScheduler": _MULTISTEP
        | _DPM
        | _LINSPACE
        | _ZERO_SNR
        | dict(euler_at_final=False, use_lu_lambdas=False),
        "EulerDiscreteScheduler": _NOISE
        | _SIGMAS
        | _LINSPACE
        | _ZERO_SNR
        | dict(
            interpolation_type="linear", sigma_min=None, sigma_max=None, timestep_type="discrete",
            final_sigmas_type="zero"
        ),
        "EulerAncestralDiscreteScheduler": _NOISE | _LINSPACE | _ZERO_SNR,
        "HeunDiscreteScheduler": _KARRAS_NOISE | _SIGMAS | _CLIP | _LINSPACE | dict(clip_sample=False),
        "UniPCMultistepScheduler": _MULTISTEP
        | _LINSPACE
        | _ZERO_SNR
        | dict(
            solver_order=2, solver_type="bh2", predict_x0=True, disable_corrector=[], solver_p=None,
            final_sigmas_type="zero", sigma_min=None, sigma_max=None, shift_terminal=None,
        ),
        "DEISMultistepScheduler": _MULTISTEP
        | _LINSPACE
        | dict(solver_order=2, algorithm_type="deis", solver_type="logrho"),
        "SASolverScheduler": {
            k: v for k, v in _MULTISTEP.items() if k not in ("use_dynamic_shifting", "time_shift_type")
        }
        | _LINSPACE
        | dict(
            predictor_order=2, corrector_order=2, tau_func=None, algorithm_type="data_prediction",
            lambda_min_clipped=-float("inf"), variance_type=None,
        ),
        "DPMSolverSinglestepScheduler": _MULTISTEP | _DPM | dict(lower_order_final=False),
        "LMSDiscreteScheduler": _NOISE | _SIGMAS | _LINSPACE,
        "KDPM2DiscreteScheduler": _KARRAS_NOISE | _SIGMAS | _LINSPACE,
        "KDPM2AncestralDiscreteScheduler": _KARRAS_NOISE | _SIGMAS | _LINSPACE,
        "DPMSolverSDEScheduler": _KARRAS_NOISE | _SIGMAS | _LINSPACE | dict(noise_sampler_seed=None),
        "LCMScheduler": _CONSISTENCY,
        "TCDScheduler": _CONSISTENCY,
    }
)  # fmt: skip
