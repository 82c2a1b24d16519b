"""The language model of captions: GPT-2's network, sentences of scenes, and layouts for LLM-grounded diffusion."""

import jax
import numpy as np
import pytest

from ldm_jax.convert import gpt2 as convert
from ldm_jax.data import shapes
from ldm_jax.editing import endpoint
from ldm_jax.models.causal_lm import CausalLM
from ldm_jax.shapes_world import scenes as world
from ldm_jax.training.beside import caption_lm as lm

TOKENS = np.random.default_rng(0).integers(0, 20, (2, 7)).astype(np.int32)


def test_logits_are_transformers_and_know_nothing_of_what_follows():
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        expected = theirs(torch.tensor(TOKENS.astype(np.int64))).logits
    model = CausalLM(20, 16, 2, 2, 8)
    template = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    params = convert.from_state({n: v.numpy() for n, v in theirs.state_dict().items()}, template)
    apply = jax.jit(model.apply)
    found = apply({"params": params}, TOKENS)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    changed = TOKENS.copy()
    changed[:, 4:] = (changed[:, 4:] + 1) % 20
    np.testing.assert_array_equal(apply({"params": params}, changed)[:, :4], found[:, :4])


def test_a_sentence_is_the_caption_and_the_boxes_of_its_phrases():
    """A circle at the left of two squares, in the order in which the caption names them."""
    background = world.Background("plain", (240, 240, 240), 0.0, 0)
    one = world.Object("circle", "red", "small", 16.0, 32.0, 8.0)
    two = [world.Object("square", "blue", "small", 40.0, y, 8.0) for y in (16.0, 48.0)]
    scene = world.Scene((one, *two), background)
    fields = {
        "caption": "two blue squares and a red circle", "instance_mask": world.instance_mask(scene),
        "phrases": [(4, 16, world.objects_mask(scene, [1, 2])), (23, 33, world.objects_mask(scene, [0]))],
    }  # fmt: skip
    first = len(lm.MARKS) + len(world.WORDS)
    boxes = [[16, 4, 8, 8], [16, 20, 8, 8], [4, 12, 8, 8]]  # in 32nds
    numbers = [[first + v for v in box] for box in boxes]
    expected = [
        lm.BEGIN,
        *lm.words_of(fields["caption"]),
        lm.LAYOUT,
        *numbers[0],
        *numbers[1],
        lm.NEXT,
        *numbers[2],
    ]
    assert lm.sentence(fields, 32) == [*expected, lm.NEXT, lm.END]
    with pytest.raises(ValueError, match="'hexagon' in 'a hexagon', expected words of the shapes world"):
        lm.words_of("a hexagon")
    with pytest.raises(ValueError, match="needs phrases and instance_mask"):
        lm.sentence({"caption": "a circle"}, 32)


def test_every_layout_is_one_that_llm_grounded_takes():
    """Of a network that knows nothing, at a high temperature; the likeliest is the same each time."""
    prompts = ["two small red circles above a large blue square", "a green cross"]
    learner = lm.learner(width=8, num_layers=1, num_heads=2)
    params = learner.init(jax.random.key(0))
    found = lm.layouts(lm.Speaker(learner.network, params, temperature=3.0), prompts)

    def fault(what):
        return ValueError(what)

    placed = [
        endpoint.checked(one, prompt, fault).objects for one, prompt in zip(found, prompts, strict=True)
    ]
    assert [[p.alone for p in objects] for objects in placed] == [
        ["a small red circle"] * 2 + ["a large blue square"], ["a green cross"]
    ]  # fmt: skip
    likeliest = [lm.layouts(lm.Speaker(learner.network, params, 0, seed), prompts[:1]) for seed in (0, 1)]
    assert likeliest[0] == likeliest[1]
    with pytest.raises(ValueError, match="tokens, expected at most 40"):
        lm.layouts(lm.Speaker(learner.network, params), [" and ".join(["a small red circle"] * 6)])


def test_boxes_are_in_the_bins_that_the_network_was_made_with():
    """Of one that says the last of what it may."""

    class Last(lm.Speaker):
        def next(self, so_far, allowed):
            return [int(which[-1]) for which in allowed]

    found = lm.layouts(Last(lm.learner(bins=8).network, {}), ["a green cross"])
    assert found[0]["objects"][0]["box"] == [7 / 8, 7 / 8, 1 / 8, 1 / 8]


def test_captions_end_at_the_mark():
    """Of a network that says one caption and nothing else."""
    said = [lm.BEGIN, *lm.words_of("a red circle, a blue square"), lm.LAYOUT, lm.PAD]

    class One(lm.Speaker):
        def next(self, so_far, allowed):
            return [said[min(len(one), len(said) - 1)] for one in so_far]

    network = lm.learner().network
    assert lm.captions(One(network, {}), 2) == ["a red circle, a blue square"] * 2


def test_every_scene_can_be_said():
    source = shapes.source("train", num_scenes=30)
    example = lm.learner().example
    for i in range(len(source)):
        caption, phrases = source.described(i, np.random.default_rng(i))
        tokens = example(source[i] | {"caption": caption, "phrases": phrases}, None)["tokens"]
        assert (tokens > lm.NEXT + len(world.WORDS)).sum() == 4 * len(source[i]["labels"])
