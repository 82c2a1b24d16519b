"""What a run says, word by word."""

from ldm_jax.training import reporting
from ldm_jax.training.watch import Times

CONFIG = dict(batch_size=32, total_steps=5000)
VALUES = dict(loss=0.123456, gradient_norm=2.0)


def test_one_line_says_how_a_run_does():
    times = Times(100, dict(compute=9.5, data=0.5, pictures=30.0))
    assert (
        reporting.line(CONFIG, 200, VALUES, times, None)
        == "step 200/5000  loss 0.1235  320.0 images/s  8:00 left"
    )
    slow = Times(10, dict(compute=15.0, data=5.0))
    assert (
        reporting.line(CONFIG, 200, VALUES, slow, 0.4127)
        == "step 200/5000  loss 0.1235  16.0 images/s  MFU 41.3 %  waiting for data 25 %  2:40:00 left"
    )


def test_tensorboard_is_told_everything():
    times = Times(100, dict(compute=9.5, data=0.5, pictures=30.0))
    expected = {
        "loss": 0.123456,
        "gradient_norm": 2.0,
        "images_per_second": 320.0,
        "time/data_wait": 0.05,
        "seconds_per_step/compute": 0.095,
        "seconds_per_step/data": 0.005,
        "seconds_per_step/pictures": 0.3,
    }
    assert reporting.scalars(CONFIG, VALUES, times, None) == expected
    assert reporting.scalars(CONFIG, VALUES, times, 0.4) == expected | {"mfu": 0.4}
