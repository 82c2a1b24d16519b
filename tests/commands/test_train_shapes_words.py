"""The command that trains a text transformer alone: its labels are true, and training begins with what it writes."""

import json

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import bundle
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.checkpoints.warm_start import start_from
from ldm_jax.commands import train_shapes_words as words
from ldm_jax.shapes_world import scenes as world
from ldm_jax.system import make_system
from tests import tiny_shapes


def test_labels_say_what_the_caption_says():
    """Put into words again, the labels are the caption."""
    for index in range(60):
        caption, found = words.labeled(world.scene(index), np.random.default_rng(index))
        said, place = [], ""
        for _, (shape, color, size, count, where) in found:
            article = world.NUMBER_WORDS[count + 1] if count else "a"
            sized = [world.SIZES[size - 1]] if size else []
            noun = world.plural(world.SHAPES[shape]) if count else world.SHAPES[shape]
            said.append(" ".join([article, *sized, world.COLOR_NAMES[color], noun]))
            place = place or words.PLACES[where]
        last = f" {place} " if place else " and "
        assert last.join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said) == caption


def test_every_word_of_a_phrase_has_its_labels_at_its_own_token():
    system = make_system(tiny_shapes.config())
    tokens, labels = words.captions(system, "test", 8, seed=1)
    for i in range(8):
        caption, found = words.labeled(world.scene(i, "test"), np.random.default_rng([1, i]))
        at = np.flatnonzero(labels[i, :, 0] != words.NONE)
        encoded = system.tokenizer.encode(caption)
        assert encoded.ids == tokens[i].tolist()
        said = [
            (word, known) for phrase, known in found for word in caption[phrase.start : phrase.end].split()
        ]
        assert [encoded.tokens[place] for place in at] == [word for word, _ in said]
        np.testing.assert_array_equal(labels[i, at], [known for _, known in said])


def test_the_command_writes_what_training_begins_with(tmp_path, capsys, monkeypatch):
    config = tiny_shapes.config()
    monkeypatch.setattr(words, "load_config", lambda name: config)
    small = ["--steps", "30", "--batch_size", "16", "--num_scenes", "64", "--test_scenes", "32"]
    words.main(["--out", str(tmp_path / "a"), *small])
    scored = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scored.keys() == {*words.HEADS, "place_said", "all", "minutes"}
    system = make_system(config)
    opened = open_checkpoint(tmp_path / "a").bundle().params
    params, note = start_from({"conditioner": words.fresh(system, None)}, opened, ["conditioner"])
    assert note.startswith(f"{len(jax.tree.leaves(params['conditioner']))} parameters taken")
    words.main(["--probe", "--init_from", str(tmp_path / "a"), *small])
    with pytest.raises(ValueError, match="--out and --probe: expected one of them"):
        words.main(small)


def test_a_probe_leaves_the_transformer_as_it_is_and_training_does_not():
    system = make_system(tiny_shapes.config())
    given = words.fresh(system, None)
    for probe in (True, False):
        made = words.train(system, given, num_scenes=16, num_steps=2, batch_size=4, probe=probe)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), made["conditioner"], given)
        assert all(jax.tree.leaves(same)) == probe


def test_an_anchor_holds_the_contexts_where_they_were():
    system = make_system(tiny_shapes.config())
    given = words.fresh(system, None)
    tokens, _ = words.captions(system, "test", 4, seed=1)
    before = words.context_of(system, {"conditioner": given}, tokens)

    def moved(anchor):
        made = words.train(
            system, given, num_scenes=16, num_steps=20, batch_size=4, probe=False, anchor=anchor
        )
        return float(np.square(words.context_of(system, made, tokens) - before).mean())

    assert 0 < moved(1000.0) < 0.2 * moved(0.0)


def test_of_a_whole_model_the_transformer_alone_changes(tmp_path, monkeypatch):
    config = tiny_shapes.config()
    monkeypatch.setattr(words, "load_config", lambda name: config)
    system = make_system(config)
    params = jax.tree.map(np.asarray, system.init(jax.random.key(0)))
    bundle.save(tmp_path / "a", bundle.Bundle(dict(config), params, system.tokenizer))
    asked = ["--steps", "2", "--batch_size", "4", "--num_scenes", "8", "--test_scenes", "8", "--anchor", "1"]
    words.main(["--init_from", str(tmp_path / "a"), "--out", str(tmp_path / "b"), *asked])
    before, after = (open_checkpoint(tmp_path / name).bundle().params for name in "ab")
    assert before.keys() == after.keys()
    for part in before:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before[part], after[part])
        assert all(jax.tree.leaves(same)) == (part != "conditioner"), part
