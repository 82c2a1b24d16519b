"""Learning rates by formula, optimizers against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training.optimizer import learning_rate, make_lr_schedule, make_optimizer, schedule_note

CYCLES = dict(
    warm_up_steps=[2, 4], f_min=[0.1, 0.2], f_max=[1.0, 0.5], f_start=[0.01, 0.02], cycle_lengths=[10, 20]
)


def by_hand(kind, n):
    """One step of the two cycles above; a step on the border belongs to the first."""
    cycle = 0 if n <= 10 else 1
    warm, low, high, start, length = (CYCLES[k][cycle] for k in CYCLES)
    n = min(n - 10 * cycle, length)
    if n < warm:
        return start + (high - start) * n / warm
    if kind == "lambda_linear":
        return low + (high - low) * (length - n) / length
    return low + (high - low) * (1 + np.cos(np.pi * (n - warm) / (length - warm))) / 2


@pytest.mark.parametrize("kind", ["lambda_linear", "lambda_warmup_cosine2"])
def test_cycles(kind):
    steps = jnp.arange(41)
    got = jax.vmap(make_lr_schedule(2.0, dict(name=kind, **CYCLES)))(steps)
    np.testing.assert_allclose(got, [2 * by_hand(kind, n) for n in range(41)], rtol=1e-5, atol=1e-6)


def test_one_cycle_of_cosine2_is_cosine():
    one = dict(
        name="lambda_warmup_cosine", warm_up_steps=3, lr_min=0.1, lr_max=1.0, lr_start=0.2, max_decay_steps=9
    )
    two = dict(
        name="lambda_warmup_cosine2",
        warm_up_steps=[3],
        f_min=[0.1],
        f_max=[1.0],
        f_start=[0.2],
        cycle_lengths=[9],
    )
    a, b = (jax.vmap(make_lr_schedule(1.0, s))(jnp.arange(15)) for s in (one, two))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_warmup_cosine_and_constant():
    steps = jnp.array([0, 5, 10, 60, 110, 200])
    cosine = make_lr_schedule(3.0, dict(name="warmup_cosine", num_steps=110, warm_up_steps=10, final=0.2))
    np.testing.assert_allclose(jax.vmap(cosine)(steps), [0, 1.5, 3, 1.8, 0.6, 0.6], rtol=1e-5)
    constant = make_lr_schedule(3.0, dict(name="constant", warm_up_steps=10))
    np.testing.assert_allclose(jax.vmap(constant)(steps), [0, 1.5, 3, 3, 3, 3], rtol=1e-6)
    assert make_lr_schedule(3.0)(7) == 3.0


@pytest.mark.parametrize("options", [{}, dict(num_steps=None)])
def test_a_schedule_that_says_no_end_ends_with_the_run(options):
    options = dict(name="warmup_cosine", warm_up_steps=10, final=0.2) | options
    told = make_lr_schedule(3.0, options | dict(num_steps=110))
    steps = jnp.array([0, 5, 60, 110, 200])
    np.testing.assert_array_equal(jax.vmap(make_lr_schedule(3.0, options, 110))(steps), jax.vmap(told)(steps))
    within_warm_up = make_lr_schedule(3.0, options, 4)
    np.testing.assert_allclose([within_warm_up(n) for n in (0, 4)], [0, 1.2], rtol=1e-6)
    of_original = dict(name="lambda_warmup_cosine", warm_up_steps=10, lr_min=0.2, lr_max=1.0, lr_start=0.0)
    np.testing.assert_allclose(
        jax.vmap(make_lr_schedule(3.0, of_original, 110))(steps), jax.vmap(told)(steps), rtol=1e-6
    )
    with pytest.raises(ValueError, match="missing a required argument: 'max_decay_steps'"):
        make_lr_schedule(3.0, of_original)


def test_a_schedule_that_does_not_end_with_the_run_is_said():
    def said(name="warmup_cosine", **options):
        return schedule_note(dict(name=name, warm_up_steps=10, **options), 100)

    assert said() is None and said(num_steps=None) is None and said(num_steps=100) is None
    assert (
        "schedule.num_steps is 40 and the run has 100 optimizer steps: the learning rate is at its floor"
        in said(num_steps=40)
    )
    assert "does not reach its floor; leave num_steps out" in said(num_steps=400)
    assert "max_decay_steps is 50 and" in said("lambda_warmup_cosine", max_decay_steps=50)
    assert said("constant") is None and schedule_note(None, 100) is None
    assert "ends within the warm-up of 100" in schedule_note(
        dict(name="warmup_cosine", warm_up_steps=100), 100
    )


def test_a_rate_that_stays_until_it_is_told_to_fall():
    steps = jnp.array([0, 5, 10, 100, 104, 109, 116, 500])
    options = dict(name="warmup_stable_decay", warm_up_steps=10)
    stays = make_lr_schedule(2.0, options)
    np.testing.assert_allclose(jax.vmap(stays)(steps), [0, 1] + 6 * [2], rtol=1e-6)
    falls = make_lr_schedule(2.0, options | dict(decay_from=100, decay_steps=16, final=0.1))
    # a quarter, three quarters and all of the way down after 1/16, 9/16 and 16/16 of the steps
    np.testing.assert_allclose(jax.vmap(falls)(steps), [0, 1, 2, 2, 1.1, 0.65, 0.2, 0.2], rtol=1e-5)
    for wrong in (dict(decay_from=9, decay_steps=5), dict(decay_from=100)):
        with pytest.raises(ValueError, match="expected at least 1 step, after the warm-up of 10"):
            make_lr_schedule(2.0, options | wrong)


def test_learning_rate():
    assert learning_rate(2e-6, 4, 8, 2) == pytest.approx(2e-6 * 64)
    assert learning_rate(2e-6, 4, 8, 2, scale_lr=False) == 2e-6


def descend(optimizer, params, gradients):
    state, step = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


RNG = np.random.default_rng(0)
PARAMS = RNG.normal(size=6).astype(np.float32)
GRADIENTS = RNG.normal(size=(5, 6)).astype(np.float32)


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_torch_agrees(name):
    """torch's AdamW as it comes, on a vector such as a bias; Adam with betas 0.5 and 0.9."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Parameter(torch.tensor(PARAMS))
    options = {} if name == "adamw" else dict(betas=(0.5, 0.9))
    optimizer = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]([theirs], lr=0.1, **options)
    for gradient in GRADIENTS:
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
    ours = descend(make_optimizer(name, 0.1), jnp.asarray(PARAMS), GRADIENTS)
    # optax has 1 - 0.999^n in float32, torch in float64: 3e-5 of a step of 0.1. A forgotten decay would be
    # 5e-3.
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=2e-5)


def test_clipping_is_to_the_global_norm():
    """Adam hardly sees the scale of a gradient, but its epsilon does."""
    small = np.full(6, 1e-3 / np.sqrt(6), np.float32)
    options = dict(eps=1.0, b1=0.0, b2=0.0)
    clipped = descend(make_optimizer("adam", 1.0, clip_norm=1e-3, **options), jnp.zeros(6), [1000 * small])
    np.testing.assert_allclose(
        clipped, descend(make_optimizer("adam", 1.0, **options), jnp.zeros(6), [small]), rtol=1e-4
    )


def test_accumulation_averages_gradients_and_counts_optimizer_steps():
    schedule = dict(name="constant", warm_up_steps=2)
    pairs = GRADIENTS[:4].reshape(2, 2, 6)
    a = descend(make_optimizer("adamw", 0.1, schedule, accumulate=2), jnp.asarray(PARAMS), GRADIENTS[:4])
    b = descend(make_optimizer("adamw", 0.1, schedule), jnp.asarray(PARAMS), pairs.mean(1))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.any(np.abs(a - PARAMS) > 1e-3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: make_optimizer("sgd", 0.1), "adamw, adam"),
        (lambda: make_optimizer("adam", 0.1, weight_decay=0.1), "weight_decay"),
        (lambda: make_optimizer("adam", 0.1, clip_norm=0.0), "clip_norm"),
        (lambda: make_optimizer("adam", 0.1, accumulate=0), "accumulate"),
        (lambda: make_lr_schedule(0.1, dict(name="poly")), "constant, warmup_cosine, warmup_stable_decay"),
        (lambda: make_lr_schedule(0.1, dict(name="constant", warmup=3)), "warmup"),
        (
            lambda: make_lr_schedule(0.1, dict(name="warmup_cosine", num_steps=5, warm_up_steps=5)),
            "after the warm-up",
        ),
        (
            lambda: make_lr_schedule(0.1, dict(name="lambda_linear", **(CYCLES | dict(f_min=[1.0])))),
            "per cycle",
        ),
        (lambda: learning_rate(1e-6, 0), "batch_size"),
        (lambda: learning_rate(0.0, 1), "base_lr"),
        (lambda: learning_rate(float("nan"), 1), "base_lr"),
        (lambda: make_lr_schedule(0.1, dict(name="constant", warmup=3)), "it has: warm_up_steps"),
        (lambda: make_optimizer("adam", 0.1, b1="x"), "b1 is 'x', expected a number"),
        (lambda: make_optimizer("adam", 0.1, clip_norm="x"), "clip_norm: got 'x', expected a number above 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
