"""What each first stage of the table keeps: shapes, what it says that it has, and the parts that train it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.config import options_of
from ldm_jax.distributed import parallel
from ldm_jax.first_stage import FIRST_STAGES, make_first_stage
from ldm_jax.training.program import first_stage_program
from tests import tiny_first_stage

SIZE = 16
# Whatever of these a first stage has, to be small.
TINY = dict(
    channels=4, channel_mult=[1, 1], num_res_blocks=1, attn_type="none", z_channels=2, embed_dim=2, num_groups=2,
    n_embed=8
)  # fmt: skip


def section(name):
    known = options_of(FIRST_STAGES[name])
    return dict(name=name) | {option: value for option, value in TINY.items() if option in known}


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_shapes_and_what_it_says_that_it_has(name):
    first_stage = make_first_stage(section(name))
    params = first_stage.init(jax.random.key(0))
    assert bool(jax.tree.leaves(params)) == first_stage.has_parameters
    images = np.random.default_rng(0).uniform(-1, 1, (2, SIZE, 2 * SIZE, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), 2)

    @jax.jit
    def run(params):
        encoded = first_stage.encode(params, images)
        mode = first_stage.mode(params, images)
        return encoded, mode, first_stage.sample_of(encoded, keys), first_stage.decode(params, mode)

    encoded, mode, sample, decoded = run(params)
    cells = (2, SIZE // first_stage.factor, 2 * SIZE // first_stage.factor)
    assert encoded.shape == (*cells, first_stage.encoded_channels)
    assert mode.shape == sample.shape == (*cells, first_stage.channels)
    assert decoded.shape == images.shape and decoded.dtype == jnp.float32
    np.testing.assert_array_equal(first_stage.mode_of(np.asarray(encoded)), mode)
    assert (encoded.shape[-1] == 2 * mode.shape[-1]) == first_stage.has_variance
    assert np.array_equal(sample, mode) != first_stage.has_variance


@pytest.mark.parametrize("name", FIRST_STAGES)
def test_it_trains_with_the_losses_that_it_names_or_says_that_there_is_nothing_to_train(name):
    config = tiny_first_stage.get_config().to_dict() | dict(
        first_stage=section(name), loss={}, image_size=SIZE
    )
    layout = parallel.make("fsdp", devices=jax.devices()[:1])
    if not make_first_stage(section(name)).losses:
        with pytest.raises(ValueError, match=f"first_stage '{name}' has nothing to train; name kl or vq"):
            first_stage_program(config, layout)
        return
    program = first_stage_program(config, layout)
    seed = jax.ShapeDtypeStruct((), np.uint32)
    after, metrics = jax.eval_shape(program.step, program.state, program.frozen, program.batch, seed)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), program.state
    )
    assert {"total_loss", "rec_loss", "gradient_norm"} <= metrics.keys()
