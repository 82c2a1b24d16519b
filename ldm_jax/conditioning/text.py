"""Conditioning on text: the tokenizers, and the transformer that reads their tokens.

Decides how a caption becomes a fixed number of tokens, and that no text is the empty caption. Tokenizers are
objects of the `tokenizers` library, set up here to cut and pad, kept on disk as tokenizer.json, and never
downloaded.
Source: Rombach et al. 2022 (arXiv:2112.10752) section 4.3.1; CompVis/latent-diffusion@a506df5
ldm/modules/encoders/modules.py BERTTokenizer, BERTEmbedder. The transformer itself is models/text_encoder.py.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ldm_jax import paths, text_files
from ldm_jax.conditioning import chunks, emphasis
from ldm_jax.conditioning.base import Setting
from ldm_jax.models.text_encoder import TextFields, TextTransformer
from ldm_jax.types import Array, Cond

log = logging.getLogger(__name__)

TAKES = ("prompts",)
EXAMPLE = {"prompts": "caption"}
DROPS = ("tokens",)
WEIGHTS = {"tokens_weights": "tokens"}
ENCODES = ()
LARGEST = 2**24  # number in a tokenizer.json; the library makes tables as long as the largest id
LONGEST = 100_000  # letters of a caption, of which a tokenizer reads a second's worth
COMMAS = (",", ",</w>")
CLIP_MARKS = BOS, EOS = "<|startoftext|>", "<|endoftext|>"  # around each caption of CLIP's


class Conditioner(TextFields):
    """Tokens to Cond(context). site_words: see `for_each_site`."""

    site_words: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'tokens': [B, L] int32}, and maybe those of `offsets_of` -> Cond(context [B, L, width]; with
        site_words [S, B, L, width])."""
        transformer = TextTransformer(**self.text_fields(), name="transformer")

        def encode(tokens, offsets):
            return transformer(tokens, deterministic, offsets)

        encoded = for_each_site(chunks.each(encode, self.max_length), inputs, self.site_words)
        return Cond(context=emphasis.weighed(encoded, inputs.get("tokens_weights"), self.max_length))


def for_each_site(encode: Callable, inputs: Mapping[str, Array], site_words: tuple[int, int] | None) -> Array:
    """encode(tokens [B, L], offsets [B, L, D] or None) -> [B, L, D] of the inputs; with site_words [S, B, L, D], one
    encoding for each cross-attention.

    inputs: 'tokens', and maybe those of `offsets_of`. site_words: (id, S): the token of this id stands at site s for
    id + s (Voynov et al. 2023, P+, section 3.1).
    """
    tokens, offsets = inputs["tokens"], offsets_of(inputs)
    if site_words is None:
        return encode(tokens, offsets)
    first, sites = site_words
    each = jnp.where(tokens == first, first + jnp.arange(sites)[:, None, None], tokens)  # [S, B, L]
    if offsets is not None:
        offsets = jnp.tile(offsets, (sites, 1, 1))
    encoded = encode(each.reshape(-1, tokens.shape[1]), offsets)
    return encoded.reshape(*each.shape, -1)


def offsets_of(inputs: Mapping[str, Array]) -> Array | None:
    """[B, L, D]: what is added to the embeddings of 'tokens' [B, L], 'word_vectors' [B, D] where they are 'word_ids'
    [B], zeros elsewhere (conditioning/word_encoder.py); None without.
    """
    if "word_vectors" not in inputs:
        return None
    here = inputs["tokens"] == inputs["word_ids"][:, None]
    return jnp.where(here[..., None], inputs["word_vectors"][:, None], 0.0)


class _Cut:
    """Tells of captions that were cut, and of which words: of each once, the first by name, and then how many there
    were at each power of ten."""

    NAMED = 10

    def __init__(self):
        self.told: set[int] = set()

    def tell(self, caption: str, length: int, left: str) -> None:
        """left: what was cut off."""
        key, before = hash((caption, length)), len(self.told)
        self.told.add(key)
        number = len(self.told)
        if number == before:
            return
        if number <= self.NAMED:
            said = (text_files.shown(text) for text in (left, caption))
            log.warning("caption cut to %d tokens, without %s: %s", length, *said)
        elif set(str(number)[1:]) == {"0"} and str(number)[0] == "1":
            log.warning(
                "%d captions so far were cut to their tokenizer's length, of late: %s",
                number,
                text_files.shown(caption),
            )


CUT = _Cut()


def tokenize(captions: Sequence[str], tokenizer: Tokenizer, in_parts: int = 1) -> dict[str, np.ndarray]:
    """{'tokens': [B, L] int32}: every caption, `expanded`, padded to the tokenizer's length L, or cut to it with
    a warning in the log, once for each caption.

    Of a caption of more than LONGEST letters the first are read. in_parts: [B, in_parts * L] of captions that are
    read in parts (chunks.py).
    Raises: ValueError when captions is a single string, one of them is no string or no Unicode text, or the tokenizer
    does not pad to a fixed length.
    """
    if isinstance(captions, str):
        raise ValueError(
            f"text: captions is the string {text_files.shown(captions)}, expected a list of strings"
        )
    for number, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"text: prompt {number} is {text_files.shown(caption)}, expected a string")
        text_files.check_unicode(caption[:LONGEST], f"text: prompt {number}")
    if tokenizer.padding is None or tokenizer.truncation is None:
        raise ValueError(
            "text: the tokenizer does not pad and cut to a fixed length; load it with text.load_tokenizer"
        )
    written = expanded([caption[:LONGEST] for caption in captions], tokenizer)
    encodings = tokenizer.encode_batch(written)
    if in_parts > 1:
        empty = np.asarray(tokenizer.encode("").ids, np.int32)
        read = [_words_of(encoding) for encoding in encodings]
        ids = [chunks.laid_out(np.asarray(one), commas, empty, in_parts) for one, commas, _ in read]
        return {"tokens": np.asarray(ids, np.int32)}
    for caption, said, encoding in zip(captions, written, encodings, strict=True):
        if encoding.overflowing or len(caption) > LONGEST:
            kept = max((end for _, end in encoding.offsets), default=0)
            CUT.tell(caption, len(encoding.ids), said[kept:].strip())
    ids = [e.ids for e in encodings]
    return {"tokens": np.asarray(ids, np.int32).reshape(len(ids), tokenizer.truncation["max_length"])}


def _words_of(encoding: Any) -> tuple[list[int], list[bool], list[tuple[int, int]]]:
    """(ids, whether each is a comma, the characters that each covers) of a caption's own tokens, those that were cut
    off included."""
    found: tuple = [], [], []
    for part in (encoding, *encoding.overflowing):
        named = zip(part.ids, part.tokens, part.offsets, part.special_tokens_mask, strict=True)
        for i, token, span, special in named:
            if not special:
                for column, value in zip(found, (i, token in COMMAS, span), strict=True):
                    column.append(value)
    return found


def parts_of(prompts: Sequence[str], tokenizer: Tokenizer) -> int:
    """How many parts the longest of the prompts is read in."""
    room = tokenizer.truncation["max_length"] - 2
    read = tokenizer.encode_batch(expanded([prompt[:LONGEST] for prompt in prompts], tokenizer))
    return max((len(chunks.parts(_words_of(encoding)[1], room)) for encoding in read), default=1)


def expanded(captions: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Captions in which an added token that has several vectors stands for all of them: '<cat>' for
    '<cat> <cat>_1 <cat>_2' if these were added too. Captions that have them all written out are left as they are.

    Source: diffusers src/diffusers/loaders/textual_inversion.py `maybe_convert_prompt`, which names them so.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    names = {token.content for token in added}
    whole = {}
    for name in names:
        more = [f"{name}_{i}" for i in range(1, len(names))]
        there = next((i for i, part in enumerate(more) if part not in names), len(more))
        if there:
            whole[name] = " ".join([name, *more[:there]])
    if not whole:
        return list(captions)
    # a token that is looked for in normalized text is found in capitals too; the longest name counts
    loose = {token.content for token in added if token.normalized}
    loose |= {written for name, written in whole.items() if name in loose}
    spelled = sorted({*names, *whole.values()}, key=len, reverse=True)
    pattern = re.compile("|".join(f"(?{'i' * (s in loose)}:{re.escape(s)})" for s in spelled))
    lowered = {name.lower(): written for name, written in whole.items() if name in loose}

    def written_out(match: re.Match) -> str:
        return whole.get(match[0]) or lowered.get(match[0].lower()) or match[0]

    return [pattern.sub(written_out, caption) for caption in captions]


def inputs(given: Mapping[str, Sequence[str]], setting: Setting) -> dict[str, np.ndarray]:
    """given {'prompts': B strings} -> `tokenize` of them.

    Raises: ValueError without a tokenizer, as `tokenize`, or for a tokenizer whose ids are not the
    conditioner's.
    """
    if setting.tokenizer is None:
        raise ValueError(
            "text: this model has no tokenizer; name its vocabulary file in config.conditioning.tokenizer"
        )
    tokens = tokenize(given["prompts"], setting.tokenizer, setting.in_parts)
    check_ids(tokens["tokens"], setting.conditioner.vocab_size)
    return tokens


def weights(given: Mapping[str, Sequence[str]], setting: Setting) -> dict[str, np.ndarray]:
    """given {'prompts': B strings} -> {'tokens_weights': [B, L] float32}, those of the tokens that `inputs` gives: 1,
    but where a prompt is emphasis.Weighted."""
    return {"tokens_weights": token_weights(given["prompts"], setting.tokenizer, setting.in_parts)}


def token_weights(prompts: Sequence[str], tokenizer: Tokenizer, in_parts: int = 1) -> np.ndarray:
    """[B, in_parts * L] float32: see `weights`."""
    length = tokenizer.truncation["max_length"]
    out = np.ones((len(prompts), in_parts * length), np.float32)
    for row, prompt in zip(out, prompts, strict=True):
        pieces = emphasis.pieces_of(prompt)
        if any(weight != 1 for _, weight in pieces):
            pieces = [(expanded([text[:LONGEST]], tokenizer)[0], weight) for text, weight in pieces]
            encoding = tokenizer.encode("".join(text for text, _ in pieces)[:LONGEST])
            if in_parts == 1:
                row[:] = emphasis.of_spans(pieces, encoding.offsets)
            else:
                _, commas, spans = _words_of(encoding)
                found = emphasis.of_spans(pieces, spans)
                row[:] = chunks.laid_out(found, commas, np.ones(length, np.float32), in_parts)
    return out


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises: ValueError for a token outside [0, vocab_size), which a table of embeddings would answer with
    NaN."""
    if tokens.size and tokens.max() >= vocab_size:
        raise ValueError(
            f"text: the tokenizer gives token {tokens.max()}, expected 0 to {vocab_size - 1}: "
            "it is another model's"
        )


def null_inputs(batch_size: int, setting: Setting) -> dict[str, np.ndarray]:
    """{'tokens': [B, L] int32}: the tokens of the empty caption, `batch_size` times.

    Without a tokenizer they have the right shape and are zeros: enough to count a model's parameters.
    """
    if setting.tokenizer is None:
        return {"tokens": np.zeros((batch_size, setting.conditioner.max_length), np.int32)}
    return tokenize([""] * batch_size, setting.tokenizer, setting.in_parts)


def word_level_tokenizer(words: Sequence[str], max_length: int) -> Tokenizer:
    """A tokenizer with one token per word of a closed vocabulary, for captions from a grammar.

    Lower-cases, splits at whitespace and around punctuation; [BOS] caption [EOS], then [PAD] up to
    max_length. Ids: [PAD] 0, [UNK] 1, [BOS] 2, [EOS] 3, then the words in the order given, each once.
    """
    specials = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*specials, *(w.lower() for w in words)]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[(t, vocabulary[t]) for t in ("[BOS]", "[EOS]")]
    )
    tokenizer.add_special_tokens(specials)
    return _fix_length(tokenizer, max_length)


def wordpiece_tokenizer(vocab_file: str | Path, max_length: int = 77) -> Tokenizer:
    """BERT's uncased tokenizer (Devlin et al. 2019, arXiv:1810.04805): [CLS] caption [SEP], then [PAD] up to
    max_length.

    vocab_file: a vocab.txt (a token per line, its number is the id), a tokenizer.json, or a folder with one
    of them.
    Raises: ValueError when there is no such file, or a special token is not in it.
    """
    path = Path(vocab_file)
    if path.is_dir():
        path = next(
            (p for p in (path / "tokenizer.json", path / "vocab.txt") if p.is_file()), path / "vocab.txt"
        )
    if not path.is_file():
        raise ValueError(
            f"text: no WordPiece vocabulary at {path}; expected BERT's vocab.txt or tokenizer.json there"
        )
    if path.suffix == ".json":
        return _fix_length(load_tokenizer(path), max_length)
    vocabulary = {token: i for i, token in enumerate(text_files.all_lines(path, "vocabulary"))}
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    missing = [token for token in specials if token not in vocabulary]
    if missing:
        raise ValueError(
            f"text: {path} has no {', '.join(missing)}, expected a BERT vocabulary, one token per line"
        )
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([t for t in (*specials, "[MASK]") if t in vocabulary])
    return _fix_length(tokenizer, max_length)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that `tokenizer.save(path)` left at `path`; of CLIP's vocabulary, see `_trained`.

    Raises: ValueError when there is no file, or it is no tokenizer's.
    """
    if not paths.of(path).is_file():
        raise ValueError(f"text: no tokenizer at {path}; expected a tokenizer.json there")
    check_numbers(text_files.read_object(path, "text: tokenizer"), path)
    try:
        tokenizer = _trained(Tokenizer.from_file(str(paths.local(paths.of(path)))))
    except (
        BaseException
    ) as error:  # the tokenizers library raises no narrower type, and panics are none of Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ValueError(f"text: {path} is no tokenizer.json: {text_files.cut(error)}") from None
    for name, said in (("padding", tokenizer.padding), ("truncation", tokenizer.truncation)):
        length = (said or {}).get("length" if name == "padding" else "max_length") or 0
        if length > LONGEST:
            raise ValueError(f"text: {path}: its {name} is to {length} tokens, expected at most {LONGEST}")
    return tokenizer


def check_numbers(value: Mapping | Sequence, path: str | Path) -> None:
    """Raises: ValueError for a number beyond LARGEST anywhere in plain data, a vocabulary's or a tokenizer's."""
    level = [value]
    while level:
        inside = [one.values() if isinstance(one, dict) else one for one in level]
        level = [child for children in inside for child in children]
        wrong = [one for one in level if isinstance(one, int | float) and not abs(one) <= LARGEST]
        if wrong:
            raise ValueError(
                f"text: {path} is no vocabulary: it has the number {text_files.shown(wrong[0])}, "
                f"expected at most {LARGEST}"
            )
        level = [one for one in level if isinstance(one, dict | list)]


def _trained(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of CLIP's vocabulary as its models were trained with; any other as it is.

    transformers declares special what it pads with, which is "!" in OpenCLIP's models, so that every "!" of a
    caption would be padding; and its version 4 takes the marks for themselves in capitals too. Here no token of the
    vocabulary is special but the marks, and these as they are spelled.
    """
    described = json.loads(tokenizer.to_str())
    added = {token["content"]: token for token in described["added_tokens"]}
    if not set(CLIP_MARKS) <= added.keys():
        return tokenizer
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    trained = [
        token | {"normalized": token["normalized"] and name not in CLIP_MARKS}
        for name, token in added.items()
        if name not in vocabulary or name in CLIP_MARKS
    ]
    if trained == described["added_tokens"]:
        return tokenizer
    return Tokenizer.from_str(json.dumps(described | {"added_tokens": trained}))


def to_be_trained(model: str = "bpe", max_length: int = 77) -> None:
    """None: the run trains it on its captions (training/vocabulary.py), and its checkpoints have it with them."""


def _fix_length(tokenizer: Tokenizer, max_length: int) -> Tokenizer:
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(length=max_length, pad_id=tokenizer.token_to_id("[PAD]") or 0, pad_token="[PAD]")
    return tokenizer


# How a config's tokenizer section is made into one, by its `name`; the other keys are the function's
# arguments.
TOKENIZERS = {
    "word_level": word_level_tokenizer,
    "wordpiece": wordpiece_tokenizer,
    "file": load_tokenizer,
    "trained": to_be_trained,
}
