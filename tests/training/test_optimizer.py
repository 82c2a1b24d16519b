"""Learning rates by formula, optimizers against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.training.optimizer import (
    check_prefixes,
    learning_rate,
    make_lr_schedule,
    make_optimizer,
    schedule_note,
)

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


def test_adafactor_is_transformers_and_keeps_a_row_and_a_column():
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("transformers.optimization")
    params = RNG.normal(size=(6, 8)).astype(np.float32)
    gradients = RNG.normal(size=(5, 6, 8)).astype(np.float32)
    leaf = torch.nn.Parameter(torch.tensor(params))
    options = dict(lr=0.1, scale_parameter=False, relative_step=False, warmup_init=False)
    optimizer = theirs.Adafactor([leaf], **options)
    for gradient in gradients:
        leaf.grad = torch.tensor(gradient)
        optimizer.step()
    tx = make_optimizer("adafactor", 0.1, min_dim_size_to_factor=1)
    ours = descend(tx, jnp.asarray(params), gradients)
    np.testing.assert_allclose(ours, leaf.detach().numpy(), rtol=1e-4, atol=1e-5)
    state = jax.eval_shape(
        make_optimizer("adafactor", 0.1).init, jax.ShapeDtypeStruct((640, 320), jnp.float32)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 1000  # 640 + 320, and counters


def test_parts_have_rates_of_their_own():
    """Two parts and the rest, each as an optimizer of its own would have it; the longer prefix counts."""
    leaves = dict(a=dict(b=jnp.asarray(PARAMS), c=jnp.asarray(PARAMS)), d=jnp.asarray(PARAMS))
    gradients = [jax.tree.map(lambda _, g=g: jnp.asarray(g), leaves) for g in GRADIENTS]
    parts = {"a": 0.5, "a/b": [[0, 0.0], [2, 0.1]]}
    found = descend(make_optimizer("adam", 0.1, parts=parts), leaves, gradients)
    alone = {
        rate: descend(make_optimizer("adam", rate), jnp.asarray(PARAMS), GRADIENTS) for rate in (0.1, 0.05)
    }
    np.testing.assert_allclose(found["d"], alone[0.1], rtol=1e-6)
    np.testing.assert_allclose(found["a"]["c"], alone[0.05], rtol=1e-6)
    two = descend(make_optimizer("adam", 0.1, parts=parts), leaves, gradients[:2])
    np.testing.assert_array_equal(two["a"]["b"], PARAMS)
    steps = np.abs(found["a"]["b"] - PARAMS)
    assert (steps > 0).any() and steps.max() <= 3 * 0.1 * 0.1 * 1.5
    with pytest.raises(ValueError, match="config.optimizer.parts: 'e' has no parameters; there are: a, d"):
        check_prefixes("optimizer.parts", ["a/b", "e"], leaves)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: make_optimizer("sgd", 0.1), "adamw, adam"),
        (
            lambda: make_optimizer("adam", 0.1, parts={"a": -1}),
            "parts: 'a' is -1, expected a number of at least 0",
        ),
        (lambda: make_optimizer("adam", 0.1, parts={"a": [[1, 0.5]]}), "whose steps begin at 0 and grow"),
        (lambda: make_optimizer("adafactor", 0.1, b1=0.9), "'adafactor' has no option 'b1'"),
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
