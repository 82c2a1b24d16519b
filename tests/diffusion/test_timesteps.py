"""The spacings: every step count, and where they are the original's. numpy only."""

import numpy as np
import pytest

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.timesteps import (
    SPACINGS,
    dpm_leading,
    dpm_linspace,
    leading,
    linspace,
    make_timesteps,
    quad,
    sgm,
    trailing,
    uniform,
)


@pytest.mark.parametrize("spacing", [name for name in SPACINGS if name not in ("original", "lcm")])
def test_every_step_count(spacing):
    for num_train in (1, 2, 5, 1000):
        for num_steps in range(1, num_train + (0 if spacing.startswith("dpm") else 1)):
            steps = make_timesteps(spacing, num_train, num_steps)
            assert steps.dtype == (np.float32 if spacing == "linspace" else np.int32)
            assert steps.shape == (num_steps,)
            assert steps[0] < num_train and steps[-1] >= 0 and np.all(np.diff(steps) < 0), (
                num_train,
                num_steps,
            )


def test_uniform_is_the_originals_where_that_works():
    agreed, failed, more = 0, set(), set()
    for num_steps in range(1, 1001):
        try:
            original = uniform(1000, num_steps, rule="original")
        except ValueError as error:
            assert "rule='exact'" in str(error)
            failed.add(num_steps)
            continue
        if len(original) == num_steps:
            np.testing.assert_array_equal(uniform(1000, num_steps), original)
            agreed += 1
        else:
            more.add(num_steps)
    # The step counts at which the original fails while sampling, and some at which it runs more steps than
    # asked.
    assert failed == {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
    assert more >= {150, 400} and agreed == 15  # the divisors of 1000 but 1000


@pytest.mark.parametrize("num_steps, first", [(10, [1, 101, 201]), (50, [1, 21, 41]), (200, [1, 6, 11])])
def test_uniform_values(num_steps, first):
    np.testing.assert_array_equal(uniform(1000, num_steps)[::-1][:3], first)


def test_original_step_counts():
    """ldm/modules/diffusionmodules/util.py make_ddim_timesteps: range(0, T, T // S), plus one."""
    for num_steps, expected in {30: 31, 150: 167, 400: 500}.items():
        steps = make_timesteps("original", 1000, num_steps)
        assert len(steps) == expected and len(make_timesteps("uniform", 1000, num_steps)) == num_steps
        np.testing.assert_array_equal(steps[::-1], np.array(range(0, 1000, 1000 // num_steps)) + 1)


def test_uniform_of_all_steps_and_shift():
    np.testing.assert_array_equal(uniform(1000, 1000), np.arange(1000)[::-1])
    np.testing.assert_array_equal(uniform(1000, 4, shift=0), [750, 500, 250, 0])


def test_quad_values():
    expected = [1, 10, 40, 89, 159, 247, 356, 484, 633, 801]
    for rule in ("exact", "original"):
        np.testing.assert_array_equal(quad(1000, 10, rule=rule)[::-1], expected)
    np.testing.assert_array_equal(quad(1000, 50, rule="original")[::-1][:5], [1, 1, 2, 3, 6])
    np.testing.assert_array_equal(quad(1000, 50)[::-1][:5], [1, 2, 3, 4, 6])


def test_trailing_values():
    np.testing.assert_array_equal(trailing(1000, 5), [999, 799, 599, 399, 199])


def test_leading_values():
    np.testing.assert_array_equal(leading(1000, 4), [751, 501, 251, 1])
    np.testing.assert_array_equal(make_timesteps("leading_0", 1000, 4), [750, 500, 250, 0])
    np.testing.assert_array_equal(leading(1000, 3), [667, 334, 1])  # uniform also: [667, 334, 1]
    np.testing.assert_array_equal(leading(1000, 7)[:2], [853, 711])  # uniform: [858, 715]
    np.testing.assert_array_equal(leading(1000, 1000), uniform(1000, 1000))  # no room for the offset
    for num_steps in (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500):
        np.testing.assert_array_equal(leading(1000, num_steps), uniform(1000, num_steps))


def test_sgm_values():
    """LegacyDDPMDiscretization of 4, 1 and all timesteps, worked out by hand: floor of 999 - 999 i / S."""
    np.testing.assert_array_equal(sgm(1000, 4), [999, 749, 499, 249])
    np.testing.assert_array_equal(sgm(1000, 1), [999])
    np.testing.assert_array_equal(sgm(1000, 50)[-2:], [39, 19])
    np.testing.assert_array_equal(sgm(1000, 1000), np.arange(1000)[::-1])


def test_linspace_of_one_step_is_the_noisy_end():
    np.testing.assert_array_equal(linspace(1000, 1), [999])
    np.testing.assert_array_equal(linspace(1000, 3), [999, 499.5, 0])


STEP_COUNTS = (1, 2, 4, 7, 10, 13, 25, 30, 48, 50, 96, 100, 333, 600, 900)
# Ours, their scheduler, their timestep_spacing and steps_offset; PNDM's without the second visit of its second
# timestep, Heun's without the second visits of all but the first.
THEIRS = [
    (leading, "DDIMScheduler", "leading", 1),
    (leading, "PNDMScheduler", "leading", 1),
    (leading, "EulerDiscreteScheduler", "leading", 1),
    (leading, "EulerAncestralDiscreteScheduler", "leading", 1),
    (leading, "HeunDiscreteScheduler", "leading", 1),
    (SPACINGS["leading_0"], "DDIMScheduler", "leading", 0),
    (SPACINGS["leading_0"], "EulerDiscreteScheduler", "leading", 0),
    (trailing, "DDIMScheduler", "trailing", 1),
    (trailing, "EulerDiscreteScheduler", "trailing", 1),
    (trailing, "EulerAncestralDiscreteScheduler", "trailing", 1),
    (trailing, "HeunDiscreteScheduler", "trailing", 1),
    (trailing, "DPMSolverMultistepScheduler", "trailing", 1),
    (linspace, "EulerDiscreteScheduler", "linspace", 1),
    (linspace, "EulerAncestralDiscreteScheduler", "linspace", 1),
    (linspace, "HeunDiscreteScheduler", "linspace", 1),
    (dpm_leading, "DPMSolverMultistepScheduler", "leading", 1),
    (dpm_linspace, "DPMSolverMultistepScheduler", "linspace", 1),
]


@pytest.mark.parametrize("ours, scheduler, spacing, offset", THEIRS)
def test_spacings_are_diffusers(ours, scheduler, spacing, offset):
    diffusers = pytest.importorskip("diffusers")
    options = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    theirs = getattr(diffusers, scheduler)(1000, timestep_spacing=spacing, steps_offset=offset, **options)
    for num_steps in STEP_COUNTS[1:] if spacing == "linspace" else STEP_COUNTS:
        theirs.set_timesteps(num_steps)
        steps = theirs.timesteps.numpy()
        if scheduler == "PNDMScheduler":
            steps = np.delete(steps, 2) if num_steps > 1 else steps
        if scheduler == "HeunDiscreteScheduler":
            steps = np.append(steps[0], steps[1::2])
        np.testing.assert_array_equal(ours(1000, num_steps), steps, err_msg=str(num_steps))


@pytest.mark.parametrize("num_steps", [0, 1000])
@pytest.mark.parametrize("spacing", [dpm_leading, dpm_linspace])
def test_range_of_spacings_with_an_end(spacing, num_steps):
    with pytest.raises(ValueError, match="1 to 999"):
        spacing(1000, num_steps)


@pytest.mark.parametrize("num_steps", [0, -1, 1001])
def test_range(num_steps):
    with pytest.raises(ValueError, match="1 to 1000"):
        uniform(1000, num_steps)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: uniform(1000, 10, rule="leading"), "exact, original"),
        (lambda: uniform(1000, 10, shift=-1), "at least 0"),
        (lambda: leading(1000, 10, steps_offset=-1), "at least 0"),
        (lambda: make_timesteps("loglinear", 1000, 10), "uniform, quad, trailing"),
        (lambda: make_timesteps("karras", 1000, 10), "needs the noise levels"),
        (lambda: make_timesteps("karras_loglinear", 1000, 10, np.arange(1, 1001)), "'loglinear' not found"),
        (lambda: make_timesteps("ays_sd1", 1000, 10, np.arange(1, 1001)), "is for noise of 0.029 to 14.615"),
        (lambda: make_timesteps("beta", 1000, 0, np.arange(1, 1001)), "1 to 1000"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("model, theirs", [("sd1", "StableDiffusion"), ("sdxl", "StableDiffusionXL")])
def test_align_your_steps(model, theirs):
    """The published timesteps at 10 steps, which are rounded, and between them levels in the same proportion."""
    tables = pytest.importorskip("diffusers.schedulers.scheduling_utils").AysSchedules
    sigmas = np.asarray(make_schedule("linear", 1000, 0.00085, 0.012).sigmas)
    ten, twenty = (make_timesteps(f"ays_{model}", 1000, n, sigmas) for n in (10, 20))
    assert np.abs(ten - tables[theirs + "Timesteps"]).max() < 1
    np.testing.assert_allclose(np.interp(ten, range(1000), sigmas), tables[theirs + "Sigmas"][:-1], rtol=1e-3)
    np.testing.assert_allclose(twenty[::2], ten, rtol=1e-6)
    levels = np.interp(twenty, range(1000), sigmas)
    np.testing.assert_allclose(levels[1:-1:2] ** 2, levels[:-2:2] * levels[2::2], rtol=1e-3)


def test_lcm_is_of_the_steps_of_distillation():
    """The published few-step runs of models distilled on 50 steps."""
    np.testing.assert_array_equal(make_timesteps("lcm", 1000, 4), [999, 759, 499, 259])
    np.testing.assert_array_equal(make_timesteps("lcm", 1000, 1), [999])
    np.testing.assert_array_equal(make_timesteps("lcm", 1000, 50), np.arange(999, 0, -20))
    np.testing.assert_array_equal(make_timesteps("lcm_25", 1000, 2), [999, 519])
    with pytest.raises(ValueError, match="num_steps: got 51, expected 1 to 50"):
        make_timesteps("lcm", 1000, 51)
    with pytest.raises(ValueError, match="original_steps: got 1001, expected 1 to 1000"):
        make_timesteps("lcm_1001", 1000, 1)
