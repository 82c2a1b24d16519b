"""The vocabulary of a text model whose config names none but wants one trained: on the captions of its data.

    conditioning.tokenizer = dict(name="trained", model="bpe" or "words", max_length=64)

Decides which captions it is trained on and how. It is made once, kept in the workdir, and the same ever after; its most
tokens are the conditioner's vocab_size. The tokenizers are of the `tokenizers` library.
"""

import collections
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ldm_jax import atomic
from ldm_jax.conditioning import text
from ldm_jax.config import conditioning_kinds
from ldm_jax.data import pipeline
from ldm_jax.distributed import hosts

MOST = 200_000  # captions that are read, evenly over the data
SPECIALS = ("[PAD]", "[UNK]", "[BOS]", "[EOS]")

log = logging.getLogger(__name__)


def wanted(config: Mapping[str, Any]) -> dict | None:
    """The options of a tokenizer that is to be trained: {model, max_length, vocab_size}, or None.

    Raises: ValueError for another option, and for a conditioner that does not say its vocab_size."""
    for kind, options in conditioning_kinds(config.get("conditioning")).items():
        section = dict(options.get("tokenizer") or {})
        if section.pop("name", None) != "trained":
            continue
        if "vocab_size" not in options:
            raise ValueError(f"conditioning {kind!r} has no vocab_size, the most tokens of what is trained")
        known = {"model": "bpe", "max_length": options.get("max_length", 77)}
        for option in section:
            if option not in known:
                raise ValueError(f"tokenizer 'trained' has no option {option!r}; it has: {', '.join(known)}")
        if section.get("model", "bpe") not in MODELS:
            raise ValueError(
                f"tokenizer model {section['model']!r} not found; there are: {', '.join(MODELS)}"
            )
        return known | section | {"vocab_size": options["vocab_size"]}
    return None


def of_run(config: Mapping[str, Any], workdir: Path, source: Any) -> Tokenizer | None:
    """The tokenizer of a run whose config wants one trained: the workdir's, or one trained on the captions of its
    source, which the first process writes there. None where it wants none.

    Raises: ValueError as `wanted`, and for data without captions."""
    options, path = wanted(config), workdir / "tokenizer.json"
    if options is None:
        return None
    with hosts.first_alone("the vocabulary"):
        if hosts.is_first() and not path.is_file():
            tokenizer = train(captions(source), repr(source), **options)
            log.info("trained a vocabulary of %d tokens on the captions", tokenizer.get_vocab_size())
            with atomic.writing(path) as partial:
                tokenizer.save(str(partial))
    return text.load_tokenizer(path)


def captions(source: Any) -> Iterator[str]:
    """Those of at most MOST examples, evenly over the source."""
    can, number = pipeline.abilities(source), len(source)
    for i in range(min(number, MOST)):
        at = i * number // min(number, MOST)
        yield from can.said(at) if can.said else [str(source[at].get("caption", ""))]


def train(said: Iterator[str], what: str, *, model: str, max_length: int, vocab_size: int) -> Tokenizer:
    """model: 'bpe', which cuts rare words into pieces and knows every letter, or 'words', a token for each of the most
    frequent words. what: the data, for messages. Raises: ValueError where no caption has a word."""
    found = list(filter(None, said))
    if not found:
        raise ValueError(f"{what} has no captions to train a vocabulary on")
    tokenizer = MODELS[model](found, vocab_size)
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(length=max_length, pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    return tokenizer


def _words(said: list[str], vocab_size: int) -> Tokenizer:
    cut = pre_tokenizers.BertPreTokenizer()
    counts = collections.Counter(w for one in said for w, _ in cut.pre_tokenize_str(one.lower()))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocab_size - len(SPECIALS)]
    return text.word_level_tokenizer(sorted(frequent), max_length=len(SPECIALS))


def _bpe(said: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level, of Radford et al. 2019 (GPT-2), section 2.2, in small letters."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(said, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[BOS]", "[EOS]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ids)
    return tokenizer


MODELS = {"bpe": _bpe, "words": _words}
