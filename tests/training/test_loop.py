"""The loop on a model of three numbers: what it does with time, batches that come late, errors, and watching."""

import contextlib
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.checkpoints import train_state
from ldm_jax.distributed import parallel, preemption
from ldm_jax.training import loop
from ldm_jax.training.objective import loss_by_timestep
from ldm_jax.training.state import TrainState

BATCH = 4
CONFIG = dict(
    batch_size=BATCH,
    total_steps=12,
    checkpoint_every=100,
    log_every=1,
    preview_every=100,
    seed=0,
    optimizer={},
)


def batches(start: int, seconds: float = 0.0, broken: int | None = None):
    step = start
    while True:
        time.sleep(seconds)
        if step == broken:
            raise FileNotFoundError(f"batch {step} is gone")
        rng = np.random.default_rng(step)
        yield {"x": rng.normal(size=(BATCH, 3)).astype(np.float32), "t": rng.integers(0, 1000, BATCH)}
        step += 1


def step_of(seconds: float = 0.0):
    def step(state, frozen, batch, seed):
        x = batch["x"]
        if seconds:  # the devices are busy for that long
            x = jax.pure_callback(lambda x: (time.sleep(seconds), x)[1], x, x)
        losses = jnp.square(x - state.params["w"]).mean(1)
        w = state.params["w"] + 0.1 * (x.mean(0) - state.params["w"])
        average = state.ema_params["w"] + 0.5 * (w - state.ema_params["w"])
        metrics = dict(loss=losses.mean(), loss_by_timestep=loss_by_timestep(losses, batch["t"], 1000))
        metrics["update_norm"] = jnp.linalg.norm(w - state.params["w"])
        return TrainState(state.step + 1, {"w": w}, {"w": average}, {}), metrics

    return step


def run(
    monkeypatch,
    given=batches,
    seconds: float = 0.0,
    calls: dict | None = None,
    start=None,
    save=None,
    **changes,
):
    """(the last state, [(steps done, metrics, times) of every report])."""
    monkeypatch.setattr(train_state, "save", save or (lambda *args, **kwargs: None))
    placement, said = parallel.make(devices=jax.devices()[:1]), []
    w = {"w": np.zeros(3, np.float32)}
    state = start or TrainState(np.int32(0), w, w, {})
    job = loop.TrainingJob(state, step_of(seconds), {}, given, None, None, lambda step: 0.1, "")
    done_so_far = int(state.step)
    called = loop.Calls(
        lambda done, values, times: said.append((done, values, times)),
        lambda done, state: None,
        lambda done, state: False,
        lambda rounds: False,
    )._replace(**calls or {})
    state, _ = loop.run(CONFIG | changes, job, placement, None, placement.place(state), done_so_far, called)
    return jax.device_get(parallel.fetch(state)), said


def test_watching_changes_no_bit(monkeypatch):
    often, said = run(monkeypatch, log_every=1)
    never, (last,) = run(monkeypatch, log_every=100)
    jax.tree.map(np.testing.assert_array_equal, often, never)
    assert [done for done, *_ in said] == list(range(1, 13)) and last[0] == 12
    # Rarely or often, every step counts in the losses by timestep, and they add up to the loss.
    losses = [values["loss"] for _, values, _ in said]
    numbers = np.zeros(10)
    for i in range(12):
        numbers += np.histogram(next(batches(i))["t"], np.arange(0, 1001, 100))[0]
    bins = [name for name in last[1] if name.startswith("loss_by_timestep/")]
    assert bins == [f"loss_by_timestep/{i / 10:.1f}" for i in np.nonzero(numbers)[0]]
    whole = sum(numbers[int(name[-1])] * last[1][name] for name in bins)
    np.testing.assert_allclose(whole / numbers.sum(), np.mean(losses), rtol=1e-5)


def test_what_is_said_of_the_state(monkeypatch):
    state, said = run(monkeypatch)
    before, _ = run(monkeypatch, total_steps=11)
    values, w, average = said[-1][1], state.params["w"], state.ema_params["w"]
    norm = np.linalg.norm(w)
    np.testing.assert_allclose(values["param_norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(values["ema_distance"], np.linalg.norm(average - w) / norm, rtol=1e-5)
    moved = np.linalg.norm(w - before.params["w"])
    np.testing.assert_allclose(values["update_ratio"], moved / norm, rtol=1e-5)
    assert values["learning_rate"] == 0.1


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_run_in_two_parts_sees_the_same_batches(monkeypatch, at_once):
    """What was drawn ahead and not taken is drawn again."""
    seen = []

    def given(start):
        seen.append(start)
        return batches(start)

    whole, _ = run(monkeypatch, steps_per_dispatch=at_once, checkpoint_every=3, log_every=3)
    told = {"stop": lambda rounds: rounds == 6 // at_once}
    half, _ = run(monkeypatch, given, calls=told, steps_per_dispatch=at_once, log_every=3)
    assert half.step == 6
    again, _ = run(monkeypatch, given, start=half, steps_per_dispatch=at_once, log_every=3)
    assert seen == [0, 6]
    jax.tree.map(np.testing.assert_array_equal, whole, again)


def test_an_error_in_the_data_is_met_at_its_step_and_the_steps_before_it_are_saved(monkeypatch):
    steps, saved = [], []
    with pytest.raises(FileNotFoundError, match="batch 7 is gone"):
        run(
            monkeypatch,
            lambda start: batches(start, broken=7),
            calls={"report": lambda done, values, times: steps.append(done)},
            save=lambda checkpoints, done, state, wait: saved.append((done, int(state.step), wait)),
        )
    assert steps == list(range(1, 8)) and saved == [(7, 7, True)]


def test_time_adds_up_and_waiting_for_data_is_told_apart(monkeypatch):
    at = []
    report = {"report": lambda done, values, times: at.append((time.monotonic(), times))}
    drawing = {"show": lambda done, state: time.sleep(0.1)}
    run(monkeypatch, lambda start: batches(start, 0.15), calls=report | drawing, preview_every=6, log_every=4)
    first, *rest = at
    wall, told = rest[-1][0] - first[0], [times for _, times in rest]
    assert sum(t.steps for t in told) == 8
    np.testing.assert_allclose(sum(sum(t.seconds.values()) for t in told), wall, rtol=0.1, atol=0.1)
    # A batch takes 0.15 s, a step next to nothing: the devices wait, but while pictures are drawn and for what was
    # ahead.
    assert sum(t.seconds["data"] for t in told) > 0.4
    assert sum(t.seconds.get("pictures", 0) for t in told) >= 0.1
    assert "compile" in first[1].seconds and not any("compile" in t.seconds for t in told)


def test_a_loader_that_keeps_up_is_not_waited_for(monkeypatch):
    """Each batch takes two thirds of a step's time, and is made meanwhile."""
    _, said = run(monkeypatch, lambda start: batches(start, 0.04), seconds=0.06, log_every=4)
    times = [times for _, _, times in said[1:]]
    assert sum(t.seconds["compute"] for t in times) > 0.7 * 8 * 0.06
    assert all(t.share("data") < 0.25 for t in times)  # 0.4 if it were not


def test_a_metric_that_is_no_number_ends_the_run(monkeypatch):
    class Checkpoints:
        directory = train_state.pathlib.Path("run/checkpoints")

        def wait_until_finished(self):
            pass

    def given(start):
        for i, batch in enumerate(batches(start)):
            yield batch if i != 5 else dict(batch, x=np.full((BATCH, 3), np.nan, np.float32))

    monkeypatch.setattr(train_state, "save", lambda *args, **kwargs: None)
    placement, w = parallel.make(devices=jax.devices()[:1]), {"w": np.zeros(3, np.float32)}
    state = TrainState(np.int32(0), w, w, {})
    job = loop.TrainingJob(state, step_of(), {}, given, None, None, lambda step: 0.1, "")
    calls = loop.Calls(*(lambda *_: False,) * 4)
    said = (
        r"NaN or infinity in .*loss, param_norm.* between steps 4 and 6; the last good checkpoint is step 0"
    )
    with pytest.raises(RuntimeError, match=said):
        loop.run(CONFIG | {"log_every": 3}, job, placement, Checkpoints(), placement.place(state), 0, calls)


def test_numbers_that_are_none_are_not_saved_where_the_data_fail(monkeypatch):
    class Checkpoints:
        directory = train_state.pathlib.Path("run/checkpoints")

        def wait_until_finished(self):
            pass

    def given(start):
        for i, batch in zip(range(6), batches(start), strict=False):
            yield batch if i != 5 else dict(batch, x=np.full((BATCH, 3), np.nan, np.float32))
        raise FileNotFoundError("no more")

    saved = []
    monkeypatch.setattr(train_state, "save", lambda *args, **kwargs: saved.append(args))
    placement, w = parallel.make(devices=jax.devices()[:1]), {"w": np.zeros(3, np.float32)}
    job = loop.TrainingJob(
        TrainState(np.int32(0), w, w, {}), step_of(), {}, given, None, None, lambda step: 0.1, ""
    )
    calls = loop.Calls(*(lambda *_: False,) * 4)
    with pytest.raises(RuntimeError, match="NaN or infinity in .*loss"):
        loop.run(
            CONFIG | {"log_every": 100}, job, placement, Checkpoints(), placement.place(job.state), 0, calls
        )
    assert not saved


@pytest.mark.parametrize("at", [0, 4])
def test_a_run_that_is_told_to_stop_beside_its_steps_saves_what_was_done(monkeypatch, at):
    """While the first step is compiled nothing was done; while pictures are drawn, all steps before."""
    saved, called = [], []

    def patiently(call, what):
        called.append(what)
        if len(called) > (1 if at else 0):
            raise preemption.ToldAtOnce("told to stop")
        return call()

    def save(checkpoints, done, state, wait=False):
        saved.append((done, wait))

    run(monkeypatch, calls=dict(patiently=patiently), save=save, preview_every=4)
    assert saved == ([(4, True)] if at else [])
    assert called == ["the training step", "what draws the pictures"][: 2 if at else 1]


def test_the_last_evaluation_is_called_as_patiently_as_the_others():
    """It comes at the end of every run, whether the interval divides the steps or not."""
    config = dict(CONFIG, total_steps=5, evaluate_every=2, holdout_every=0)
    asked, patient = [], []

    def patiently(call, what):
        patient.append(call.args[0])
        return call()

    def show(done, state):
        return None

    def evaluate(done, state):
        asked.append(done)

    calls = SimpleNamespace(patiently=patiently, show=show, evaluate=evaluate)
    for done in range(1, 6):
        loop._look(config, calls, lambda what: contextlib.nullcontext(), 0, done, None)
    assert asked == [1, 2, 3, 4, 5]
    assert patient == [2, 4, 5, 5]  # at the end the pictures and the evaluation
