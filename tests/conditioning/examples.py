"""A small example of every kind of conditioning, for the contract test: two inputs, the null of two, and a
Conditioner."""

from typing import NamedTuple

from ldm_jax.conditioning import text


class Example(NamedTuple):
    """given, null: arguments of the module's inputs() and null_inputs(); fields: those of its Conditioner."""

    given: tuple
    null: tuple
    fields: dict


def _class_label() -> Example:
    return Example(([1, 2], 5), (2, 5), {"num_classes": 5, "width": 3})


def _text() -> Example:
    tokenizer = text.word_level_tokenizer(["a", "red", "circle"], 6)
    fields = {
        "vocab_size": tokenizer.get_vocab_size(),
        "width": 8,
        "num_layers": 1,
        "max_length": 6,
        "num_heads": 2,
    }
    return Example((["a red circle", "a circle"], tokenizer), (2, tokenizer), fields)


EXAMPLES = {"class_label": _class_label, "text": _text}
