"""Instances at their places: diffusers' numbers of GLIGEN's parts, who sees whom, and gates of zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import instances as conditioning
from ldm_jax.models import controlnet, instances
from ldm_jax.models.unet import UNet, apply_unet
from ldm_jax.types import Cond
from tests.conditioning.examples import EXAMPLES

RNG = np.random.default_rng(0)
FIELDS = dict(in_channels=4, out_channels=4, channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(0,),
              num_heads=2, transformer_depth=1, context_dim=24, num_groups=8)  # fmt: skip
X, T, CONTEXT = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 8, 8, 4), (2,), (2, 5, 24)))
T = jnp.array([100, 900])


def test_the_numbers_of_a_place_are_gligens():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    torch = pytest.importorskip("torch")
    boxes = RNG.uniform(size=(2, 3, 4)).astype(np.float32)
    expected = embeddings.get_fourier_embeds_from_boundingbox(8, torch.tensor(boxes))
    np.testing.assert_allclose(instances.fourier(boxes, 8), expected.numpy(), atol=1e-5)


def test_where_everything_is_seen_it_is_gligens_gated_self_attention():
    attention = pytest.importorskip("diffusers.models.attention")
    torch = pytest.importorskip("torch")
    theirs = attention.GatedSelfAttentionDense(16, 6, 2, 8)
    with torch.no_grad():
        theirs.alpha_attn.fill_(0.7), theirs.alpha_dense.fill_(-0.4)
    x, tokens = RNG.normal(size=(2, 5, 16)).astype("f"), RNG.normal(size=(2, 3, 6)).astype("f")
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    names = {"linear": "linear", "to_out": "attn.to_out.0", "norm1": "norm1", "norm2": "norm2"}
    names |= {f"to_{n}": f"attn.to_{n}" for n in "qkv"}
    own = {
        name: {"scale" if "norm" in name else "kernel": state[f"{torch_name}.weight"].T}
        | ({"bias": state[f"{torch_name}.bias"]} if f"{torch_name}.bias" in state else {})
        for name, torch_name in names.items()
    }
    ff = {"proj": "ff.net.0.proj", "out": "ff.net.2"}
    own["ff"] = {n: {"kernel": state[f"{t}.weight"].T, "bias": state[f"{t}.bias"]} for n, t in ff.items()}
    own |= {f"alpha_{n}": state[f"alpha_{n}"] for n in ("attn", "dense")}
    sees = jnp.ones((2, 8, 8), bool)
    found = instances.Fuser(2).apply({"params": own}, x, tokens, sees, jnp.ones(2))
    with torch.no_grad():
        expected = theirs(torch.tensor(x), torch.tensor(tokens)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - x).max() > 0.1


def test_an_instance_sees_and_is_seen_in_its_own_region():
    places = {
        "boxes": jnp.zeros((1, 2, 4)).at[0, 0].set(jnp.array([0, 0, 0.45, 1])),
        "points": jnp.zeros((1, 2, 2)),
    }
    places["masks"] = jnp.zeros((1, 2, 2, 2)).at[0, 1, 1, 1].set(1)
    said = jnp.array([[[1, 1, 1, 0], [1, 0, 0, 1.0]]])
    regions = instances.regions_of(places, said, 2, 2)
    np.testing.assert_array_equal(regions, [[[1, 0, 1, 0], [0, 0, 0, 1]]])
    sees = np.asarray(instances.visible(regions, said)[0])
    cells, tokens = sees[:4, :4], sees[4:, :4]
    np.testing.assert_array_equal(cells, [[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]])
    of_region = [[1, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(tokens, [*of_region, [1] * 4, [1] * 4, *of_region])
    np.testing.assert_array_equal(sees[:4, 4:], tokens.T)
    none = np.asarray(instances.visible(regions, 0 * said)[0])
    np.testing.assert_array_equal(none[4:, :4], 0)
    assert none[:4, :4].all() and (none.diagonal() == 1).all()


def test_the_lowest_frequencies_are_those_of_the_original():
    torch = pytest.importorskip("torch")
    x = RNG.normal(size=(1, 6, 8, 2)).astype("f")
    spectrum = torch.fft.fftshift(
        torch.fft.fftn(torch.tensor(x.transpose(0, 3, 1, 2)), dim=(-2, -1)), dim=(-2, -1)
    )
    mask = torch.ones(spectrum.shape)
    mask[..., 2:4, 3:5] = 1.6
    expected = torch.fft.ifftn(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)), dim=(-2, -1)).real
    found = x + np.asarray(instances.low_passed(jnp.asarray(x), jnp.float32(0.6)))
    np.testing.assert_allclose(found, expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)


def test_gates_of_zero_and_a_scale_of_zero_change_nothing_to_the_bit():
    unet = UNet(**FIELDS)
    shapes = jax.eval_shape(lambda: unet.init(jax.random.key(0), X, T, Cond(CONTEXT))["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * RNG.normal(size=leaf.shape), jnp.float32), shapes)
    own = instances.begun(params, jax.random.key(0), 24, 6, 8)
    assert len(own) == 1 + 4 + 4  # tokens, streams, blocks of the decoder
    said = jnp.ones((2, 3, 4)).at[:, 2].set(0)
    draw = lambda *shape: jnp.asarray(RNG.uniform(0.2, 0.8, shape), jnp.float32)  # noqa: E731
    one = {
        "embedding": draw(2, 3, 24),
        "boxes": jnp.sort(draw(2, 3, 4)),
        "points": draw(2, 3, 2),
        "said": said,
    }
    one |= {"masks": draw(2, 3, 8, 8), "starts": jnp.zeros((2, 1)), "stops": jnp.ones((2, 1))}

    def cond(scale, **other):
        return Cond(
            CONTEXT,
            hints={"T": jnp.full(2, 1000.0), "instances": one | other | {"scales": jnp.full((2, 1), scale)}},
        )

    network = jax.jit(lambda p, cond: controlnet.apply_network(unet, p, X, T, cond)[0])
    without = jax.jit(lambda p: apply_unet(unet, p, X, T, Cond(CONTEXT))[0])(params)
    np.testing.assert_array_equal(network(params | {"instances": own}, cond(1.0)), without)
    moved = params | {"instances": jax.tree.map(lambda leaf: leaf + 0.5, own)}
    np.testing.assert_array_equal(network(moved, cond(0.0)), without)
    assert np.abs(network(moved, cond(1.0)) - without).max() > 1e-2
    late = network(moved, cond(1.0, starts=jnp.full((2, 1), 0.5)))
    np.testing.assert_array_equal(late[1], without[1])
    assert (late[0] != without[0]).any()
    # an instance that is not there is nothing, whatever its place
    elsewhere = one["boxes"].at[:, 2].set(jnp.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(network(moved, cond(1.0, boxes=elsewhere)), network(moved, cond(1.0)))


@pytest.mark.parametrize(
    "given, said",
    [
        ([{"text": "a"}], "'a' has no place, expected a box, a point or a mask"),
        ([{"text": "a", "box": [0, 0, 1]}], r"box is \[0, 0, 1\], expected 4 numbers from 0 to 1"),
        ([{"text": "a", "box": [0.5, 0, 0.5, 1]}], "expected x0 < x1 and y0 < y1"),
        ([{"text": "a", "point": [0, float("nan")]}], "expected 2 numbers from 0 to 1"),
        ([{"text": "a", "mask": np.ones((3, 3))}], "mask is 3 x 3, expected a multiple of 4 x 4"),
        ([{"box": [0, 0, 1, 1]}], "with a text"),
        ([{"text": "a", "bax": [0, 0, 1, 1]}], "expected {text, box, point, mask}"),
        ([{"text": "a", "point": [0, 0]}] * 3, "expected a list of at most 2"),
        ("a", "expected a list of at most 2"),
    ],
)
def test_what_is_no_instance_is_said(given, said):
    setting = EXAMPLES["instances"]().setting
    with pytest.raises(ValueError, match=said):
        conditioning.inputs({"instances": [given]}, setting)
