"""Prompts that are read in parts: where they are parted, and that each part is read as a prompt of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import chunks, clip, emphasis, text
from ldm_jax.find import find
from tests.conditioning import tiny_clip
from tests.conditioning.examples import EXAMPLES
from tests.conditioning.test_emphasis import TEXTS


@pytest.mark.parametrize(
    "number, commas, expected",
    [  # by hand, of AUTOMATIC1111's rule: 75 tokens, 20 back
        (0, [], [(0, 0)]),
        (75, [70], [(0, 75)]),
        (80, [60], [(0, 61), (61, 80)]),
        (80, [55], [(0, 56), (56, 80)]),
        (80, [54], [(0, 75), (75, 80)]),
        (80, [60, 75], [(0, 75), (75, 80)]),
        (160, [70, 74, 140], [(0, 75), (75, 141), (141, 160)]),
    ],
)
def test_where_a_prompt_is_parted(number, commas, expected):
    assert chunks.parts([at in commas for at in range(number)], 75) == expected


def test_the_tokens_of_a_long_prompt(tmp_path):
    """Each part is what the tokenizer gives of its words alone; a part that is not there is the empty prompt."""
    tiny_clip.write(tmp_path)
    tokenizer = clip.clip_tokenizer(tmp_path, 8)
    long, short = "red and red, circle's red red red circle", "red"
    tokens = text.tokenize([long, short], tokenizer, 3)["tokens"]
    said = ["red and red,", "circle's red red red circle", "", short, "", ""]
    assert text.parts_of([short, long], tokenizer) == 2
    np.testing.assert_array_equal(tokens.reshape(6, 8), text.tokenize(said, tokenizer)["tokens"])
    weights = text.token_weights(
        [emphasis.parsed("red and red, circle's (red:2) red red circle")], tokenizer, 2
    )
    np.testing.assert_array_equal(weights.reshape(2, 8), [[1] * 8, [1, 1, 1, 2, 1, 1, 1, 1]])


@pytest.mark.parametrize("name", TEXTS)
def test_each_part_is_read_as_a_prompt_of_its_own(name):
    module, example = find("conditioning", name), EXAMPLES[name]()
    given = {k: v for k, v in example.given.items() if not k.startswith("prompts")}
    whole = emphasis.all_parsed(["a red (circle:2) a [red]", "circle circle a a red"])
    split = [["a red (circle:2) a", "circle circle a a"], ["[red]", "red"]]
    split = [emphasis.all_parsed(part) for part in split]
    setting = example.setting._replace(in_parts=2)

    def read(prompts, setting):
        said = {"prompts": list(prompts)}
        return module.inputs({**given, **said}, setting) | module.weights(said, setting)

    inputs = read(whole, setting)
    conditioner = setting.conditioner
    rng, shapes = np.random.default_rng(0), jax.eval_shape(conditioner.init, jax.random.key(0), inputs)
    variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    got = conditioner.apply(variables, inputs)
    each = [conditioner.apply(variables, read(part, example.setting)) for part in split]
    expected = np.concatenate([part.context for part in each], axis=1)
    np.testing.assert_allclose(got.context, expected, rtol=1e-4, atol=1e-4)
    if got.vector is not None:
        np.testing.assert_allclose(got.vector, each[0].vector, rtol=1e-4, atol=1e-4)
