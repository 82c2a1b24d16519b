"""What depends on a seed alone does so under every default that jax has for its keys (JAX_DEFAULT_PRNG_IMPL)."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Runs where the environment names another implementation. Seed 5 alone and beside others, in batches of one size, which
# is one
# program: to the bit; the keys of a training step's examples, on one device and shared among two.
PROGRAM = """
import sys
import jax, numpy as np
from ldm_jax.conditioning import upscale
from ldm_jax.inference import pipeline
from ldm_jax.system import make_system
from ldm_jax.training.state import example_keys
from tests.tiny_models import random_params

config = dict(
    image_size=8, first_stage=dict(name="identity"),
    model=dict(in_channels=3, out_channels=3, channels=4, channel_mult=[1], num_res_blocks=1,
        num_heads=1, num_groups=2),
    schedule=dict(name="linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195),
)
system = make_system(config)
params, positions = random_params(system, gain=1.5), np.arange(4, dtype=np.int32)


@jax.jit
def of_examples(positions):
    keys = example_keys(np.uint32(7), np.int32(3), positions)
    return jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)


@jax.jit
def upscaled(seeds):
    inputs = dict(noise_levels=np.full(2, 300), low_res_images=np.zeros((2, 4, 4, 3)), seeds=seeds)
    return upscale.Conditioner().apply({}, inputs).concat


def drawn():
    model = pipeline.LatentDiffusion(system, params, 1.0)
    pictures = [model.sample(None, seeds, num_steps=2, sampler="ddpm", batch_size=2) for seeds in ([3, 5], [5, 5])]
    seeds = [upscaled(np.asarray(s, np.uint32)) for s in ([3, 5], [5, 5])]
    halves = np.concatenate([of_examples(positions[:2]), of_examples(positions[2:])])
    return [np.asarray(a) for a in (*pictures, *seeds, of_examples(positions), halves)]


found = []
for impl in ("unsafe_rbg", "rbg", "threefry2x32"):
    assert impl in (jax.config.jax_default_prng_impl, *sys.argv[1:])
    jax.config.update("jax_default_prng_impl", impl)
    found.append(drawn())
    beside, alone, noised_beside, noised_alone, together, halves = found[-1]
    np.testing.assert_array_equal(beside[1], alone[1], err_msg=impl)
    np.testing.assert_array_equal(noised_beside[1], noised_alone[1], err_msg=impl)
    assert (beside[0] != beside[1]).any() and (noised_beside[0] != noised_beside[1]).any()
    np.testing.assert_array_equal(together, halves, err_msg=impl)
    assert len(np.unique(together)) == together.size
for other in found[:2]:
    for ours, theirs in zip(other, found[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
"""


def test_pictures_and_training_noise_depend_on_their_seed_under_every_default_of_jax():
    env = dict(os.environ, JAX_DEFAULT_PRNG_IMPL="unsafe_rbg", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", PROGRAM, "rbg", "threefry2x32"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr[-2000:]


@pytest.mark.parametrize(
    "path",
    [p for p in [*(ROOT / "ldm_jax").rglob("*.py"), ROOT / "train.py", ROOT / "sample.py"]
     if "random.key" in p.read_text() or "PRNGKey" in p.read_text()],
    ids=lambda p: str(p.relative_to(ROOT)),
)  # fmt: skip
def test_keys_name_their_implementation(path):
    """But for keys of a constant, which are there for shapes alone."""
    tree = ast.parse(path.read_text())
    named = [
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_of_shapes_or_named(node)
    ]
    for node in ast.walk(tree):
        if ast.unparse(node) in ("jax.random.key", "jax.random.PRNGKey", "random.key", "random.PRNGKey"):
            assert node in named, f"{path} line {node.lineno}: a key whose implementation jax.config chooses"


def _is_of_shapes_or_named(call: ast.Call) -> bool:
    constant = len(call.args) == 1 and isinstance(call.args[0], ast.Constant)
    return constant or any(keyword.arg == "impl" for keyword in call.keywords)
