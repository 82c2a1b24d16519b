"""Weights of words in prompts: the notation against AUTOMATIC1111's own examples, and what they do to an encoding
against its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import clip, emphasis, text
from ldm_jax.find import find, names
from tests.conditioning import tiny_clip
from tests.conditioning.examples import EXAMPLES

TEXTS = [name for name in names("conditioning") if hasattr(find("conditioning", name), "TOKENIZERS")]


@pytest.mark.parametrize(
    "prompt, pieces",
    [  # of the docstring of stable-diffusion-webui's parse_prompt_attention, with what it leaves open closed
        ("(abc)", [("abc", 1.1)]),
        ("(abc:3.12)", [("abc", 3.12)]),
        ("[abc]", [("abc", 1 / 1.1)]),
        (r"\(abc\]", [("(abc]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)",
            [
                ("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55),
                (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1),
            ],
        ),
        ("((a) b:2)", [("a", 2.2), (" b", 2.0)]),
        ("((a):2)", [("a", 2.2)]),
        ("a:1.3 (b: c)", [("a:1.3 ", 1.0), ("b: c", 1.1)]),
        (r"(a\:\\:-.5)", [("a\\:\\", -0.5)]),
    ],
)  # fmt: skip
def test_the_notation(prompt, pieces):
    found = emphasis.parsed(prompt)
    assert found == "".join(text for text, _ in pieces) and emphasis.parsed(found) is found
    assert [text for text, _ in found.pieces] == [text for text, _ in pieces]
    np.testing.assert_allclose([weight for _, weight in found.pieces], [w for _, w in pieces], rtol=1e-6)


@pytest.mark.parametrize("prompt", ["a red circle", r"C:\x", "a:1.3", ""])
def test_a_prompt_without_brackets_is_as_it_is(prompt):
    assert emphasis.parsed(prompt) is prompt


@pytest.mark.parametrize(
    "prompt, said",
    [
        (
            "a (red circle",
            r"the '\(' at character 3 is not closed; expected \\\( for a bracket that is meant",
        ),
        ("a red) circle", r"the '\)' at character 6 is not opened.*--plain_prompts"),
        ("(a]", r"the '\]' at character 3 is not opened"),
        ("a smile :)", r"the '\)' at character 10 is not opened"),
        ("a [red:blue:0.5] circle", r"\[red:blue:0.5\] changes words at a step, which is not known here"),
        ("(a:1001)", "the weight 1001, expected at most 1000"),
        ("(" * 101, "nested more than 100 deep"),
    ],
)
def test_what_is_no_such_prompt_is_said(prompt, said):
    with pytest.raises(ValueError, match=said):
        emphasis.parsed(prompt)


def test_each_token_has_the_weight_of_its_words(tmp_path):
    """Begin, end and padding have 1; so has what follows, after words of several tokens and letters of several
    bytes; a word of several vectors has its weight in all of them."""
    tiny_clip.write(tmp_path)
    tokenizer = clip.clip_tokenizer(tmp_path, 12)
    prompt = emphasis.parsed("red (cafÉ:2) [red]")
    encoding = tokenizer.encode(prompt)
    (found,) = text.token_weights([prompt], tokenizer)
    cafe = [i for i, (a, b) in enumerate(encoding.offsets) if a >= 4 and b <= 8 and b > a]
    assert len(cafe) > 1
    expected = np.ones(12, np.float32)
    expected[cafe], expected[cafe[-1] + 1] = 2, 1 / 1.1
    np.testing.assert_array_equal(found, expected)
    assert encoding.tokens[cafe[-1] + 1] == "red</w>"

    words = text.word_level_tokenizer(["a", "red"], 8)
    words.add_tokens(["<it>", "<it>_1"])
    given = [emphasis.parsed("a (<it>:3) red"), "a <it> red"]
    np.testing.assert_array_equal(text.token_weights(given, words), [[1, 1, 3, 3, 1, 1, 1, 1], [1] * 8])
    tokens = text.tokenize(given, words)["tokens"]
    np.testing.assert_array_equal(tokens[0], tokens[1])


@pytest.mark.parametrize("name", TEXTS)
def test_every_kind_of_text_is_weighed_and_keeps_its_mean(name):
    """Of each tower: z w mean(z) / mean(z w); prompts whose weights are 1 keep every bit."""
    module, example = find("conditioning", name), EXAMPLES[name]()
    inputs = module.inputs(example.given, example.setting)
    given = {k: emphasis.all_parsed(["a (red:1.5) circle", "a circle"]) for k in ("prompts", "prompts_2")}
    given = {k: v for k, v in given.items() if k in module.TAKES}
    inputs = inputs | module.inputs({**example.given, **given}, example.setting)
    weights = module.weights(given, example.setting)
    assert set(weights) == set(module.WEIGHTS) and set(module.WEIGHTS.values()) <= set(inputs)
    conditioner = example.setting.conditioner
    rng, shapes = np.random.default_rng(0), jax.eval_shape(conditioner.init, jax.random.key(0), inputs)
    variables = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    plain = conditioner.apply(variables, inputs)
    cond = conditioner.apply(variables, inputs | weights)
    w, blocks = np.array([1, 1, 1.5, 1, 1, 1])[:, None], []
    for z in np.split(np.asarray(plain.context[0], np.float64), len(weights), axis=-1):
        blocks.append(z * w * (z.mean() / (z * w).mean()))
    np.testing.assert_allclose(cond.context[0], np.concatenate(blocks, -1), rtol=2e-4, atol=1e-4)
    np.testing.assert_array_equal(cond.context[1], plain.context[1])
    if plain.vector is not None:  # what is pooled is not weighed
        np.testing.assert_array_equal(cond.vector, plain.vector)
