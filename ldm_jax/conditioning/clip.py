"""Conditioning on text through one of CLIP's text towers: Stable Diffusion 1 and 2, alone or beside a spatial
kind.

Decides which layer of the tower is the context, and how CLIP's byte-level BPE tokenizer is set up from files
on this machine; nothing is downloaded. The tower is models/clip_text.py, the cutting of captions into a fixed
number of tokens conditioning/text.py.
Source: CompVis/stable-diffusion ldm/modules/encoders/modules.py FrozenCLIPEmbedder (the last layer, normed);
Stability-AI/stablediffusion, same path, FrozenOpenCLIPEmbedder (one layer before it, normed). Tokenizer:
Radford et al. 2021 (arXiv:2103.00020), openai/CLIP clip/simple_tokenizer.py.
"""

from pathlib import Path

import jax.numpy as jnp
from flax import linen as nn
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from ldm_jax import text_files
from ldm_jax.conditioning import chunks, emphasis, text
from ldm_jax.config import clip_skip
from ldm_jax.models.clip_text import CLIPTextTransformer
from ldm_jax.types import Array, Cond

TAKES, EXAMPLE, DROPS, ENCODES = text.TAKES, text.EXAMPLE, text.DROPS, text.ENCODES
WEIGHTS = text.WEIGHTS
inputs, null_inputs, weights = text.inputs, text.null_inputs, text.weights

BOS, EOS = text.CLIP_MARKS
# A caption is cut here before the byte pairs are merged: marks, contractions, words, single digits, runs of
# the rest.
WORDS = r"'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class Conditioner(nn.Module):
    """Tokens to Cond(context); the fields are those of models.clip_text.CLIPTextTransformer, and what is read
    of it.

    layer: 'last' (Stable Diffusion 1), 'penultimate' (2), or as of config.clip_skip. final_norm: whether the
    tower's final LayerNorm is applied to it, as both do. site_words: see conditioning.text.for_each_site.
    """

    width: int
    num_layers: int
    num_heads: int
    vocab_size: int = 49408
    max_length: int = 77
    activation: str = "quick_gelu"
    mlp_width: int | None = None
    projection_dim: int | None = None
    eos_id: int | None = None
    layer: str | int = "last"
    final_norm: bool = True
    site_words: tuple[int, int] | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs: dict[str, Array], deterministic: bool = True) -> Cond:
        """inputs {'tokens': [B, L] int32}, and maybe those of text.offsets_of -> Cond(context [B, L, width], with
        site_words [S, B, L, width]). deterministic changes nothing.

        Raises: ValueError for an unknown layer.
        """
        skip = clip_skip(self.layer) - 1
        transformer = CLIPTextTransformer(
            self.vocab_size,
            self.width,
            self.num_layers,
            self.num_heads,
            self.max_length,
            self.activation,
            self.mlp_width,
            self.projection_dim,
            self.eos_id,
            self.dtype,
            name="transformer",
        )

        def encode(tokens, offsets):
            return transformer(tokens, skip, self.final_norm, offsets).hidden

        encoded = text.for_each_site(chunks.each(encode, self.max_length), inputs, self.site_words)
        return Cond(context=emphasis.weighed(encoded, inputs.get("tokens_weights"), self.max_length))


def clip_tokenizer(vocab_file: str | Path, max_length: int = 77, pad_id: int | None = None) -> Tokenizer:
    """CLIP's tokenizer: <|startoftext|> caption <|endoftext|>, cut and padded to max_length; lower-cases.

    vocab_file: a tokenizer.json, a vocab.json with its merges.txt beside it, or a folder with either. pad_id:
    None is what a tokenizer_config.json or special_tokens_map.json beside it says, else <|endoftext|>. Stable
    Diffusion 1 pads with <|endoftext|>, OpenCLIP's models with 0. The id that is padded with stays an
    ordinary one in captions, as in the original; transformers makes every "!" of a caption id 0 in models
    whose padding is "!". Tokens that were added to the vocabulary are those of tokenizer.json, or of
    tokenizer_config.json or added_tokens.json beside vocab.json. HTML entities and broken encodings are not
    repaired, as in transformers, where the original does.
    Raises: ValueError when there is no such file, or it is none of CLIP's.
    """
    path = Path(vocab_file)
    if path.is_dir():
        whole = path / "tokenizer.json"
        path = whole if whole.is_file() else path / "vocab.json"
    merges = path.with_name("merges.txt")
    if not path.is_file() or (path.name == "vocab.json" and not merges.is_file()):
        raise ValueError(
            f"clip: no BPE vocabulary at {vocab_file}; expected a tokenizer.json there, "
            "or a vocab.json with merges.txt"
        )
    tokenizer = _byte_pairs(path, merges) if path.name == "vocab.json" else text.load_tokenizer(path)
    if tokenizer.token_to_id(EOS) is None or tokenizer.token_to_id(BOS) is None:
        raise ValueError(f"clip: {path} has no {BOS} or no {EOS}, expected CLIP's vocabulary")
    return _fix_length(tokenizer, path.parent, max_length, pad_id)


def find_tokenizer(path: str | Path, max_length: int = 77, pad_id: int | None = None) -> Tokenizer:
    """The tokenizer that lies with a checkpoint, cut and padded to max_length.

    path: a folder, whose subfolders tokenizer/ and tokenizer_2/ are looked in too; a checkpoint file, whose
    folder is meant; or a vocabulary file. The files: tokenizer.json, vocab.json with merges.txt (CLIP's),
    vocab.txt (BERT's).
    pad_id: None is what the files beside it say, else the vocabulary's own padding, else <|endoftext|>.
    Raises: ValueError that says which files it looked for, and where.
    """
    path = Path(path)
    if path.is_file() and path.suffix in (".json", ".txt"):
        return _open(path, max_length, pad_id)
    folder = path if path.is_dir() else path.parent
    folders = [folder, folder / "tokenizer", folder / "tokenizer_2"]
    for file in (place / name for place in folders for name in ("tokenizer.json", "vocab.json", "vocab.txt")):
        if file.is_file() and (file.name != "vocab.json" or file.with_name("merges.txt").is_file()):
            return _open(file, max_length, pad_id)
    raise ValueError(
        "tokenizer: no tokenizer.json, no vocab.json with merges.txt and no vocab.txt in "
        + " or ".join(map(str, folders))
    )


def _open(file: Path, max_length: int, pad_id: int | None) -> Tokenizer:
    """The tokenizer of a vocabulary file that is there, by the file's name."""
    if file.name in ("vocab.json", "merges.txt"):
        return clip_tokenizer(file.with_name("vocab.json"), max_length, pad_id)
    if file.suffix == ".txt":
        return text.wordpiece_tokenizer(file, max_length)
    return _fix_length(text.load_tokenizer(file), file.parent, max_length, pad_id)


def _byte_pairs(vocab: Path, merges: Path) -> Tokenizer:
    """CLIP's tokenizer from a vocab.json {token: id} and a merges.txt, without a length."""
    ids = text_files.read_object(vocab, "vocabulary")
    text.check_numbers(ids, vocab)
    lines = text_files.lines(merges, "merges")
    pairs = [tuple(line.split(" ")) for _, line in lines if not line.startswith("#version")]
    try:
        model = models.BPE(ids, pairs, unk_token=EOS, end_of_word_suffix="</w>")
    except Exception as error:  # the tokenizers library raises no narrower type
        raise ValueError(f"clip: {vocab} with {merges.name} is no BPE vocabulary: {error}") from None
    tokenizer = Tokenizer(model)
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    if any(i is None for _, i in ids):
        return tokenizer
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ids)
    tokenizer.add_special_tokens([BOS, EOS])
    for i, token in _added_tokens(vocab.parent):
        if tokenizer.token_to_id(token.content) is None:  # what is padded with may be one of the vocabulary
            tokenizer.add_tokens([token])
            if tokenizer.token_to_id(token.content) != i:
                got = tokenizer.token_to_id(token.content)
                raise ValueError(
                    f"clip: {vocab.parent} adds {token.content!r} as id {i}, expected {got}, the next"
                )
    return tokenizer


def _added_tokens(folder: Path) -> list[tuple[int, AddedToken]]:
    """What the files that transformers 4 leaves beside a vocab.json add to it, by id."""
    path = folder / "tokenizer_config.json"
    decoder = _json_object(path).get("added_tokens_decoder")
    try:
        if decoder is not None:
            found = [(int(i), AddedToken(**token)) for i, token in decoder.items()]
        else:
            path = folder / "added_tokens.json"
            found = [
                (int(i), AddedToken(content, normalized=True)) for content, i in _json_object(path).items()
            ]
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"tokenizer: {path} has added tokens in a form that is not known: {error}") from None
    return sorted(found, key=lambda pair: pair[0])


def _fix_length(tokenizer: Tokenizer, folder: Path, max_length: int, pad_id: int | None) -> Tokenizer:
    """tokenizer, cut and padded to max_length with pad_id, or what the files in `folder` or its own file
    say."""
    if pad_id is None:
        own = tokenizer.padding["pad_token"] if tokenizer.padding else None
        names = [name for name in (_pad_token(folder), own, "[PAD]", EOS) if name is not None]
        ids = (tokenizer.token_to_id(name) for name in names)
        pad_id = next((i for i in ids if i is not None), 0)
    token = tokenizer.id_to_token(pad_id)
    if token is None:
        raise ValueError(f"tokenizer: pad_id={pad_id}, expected 0 to {tokenizer.get_vocab_size() - 1}")
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(length=max_length, pad_id=pad_id, pad_token=token)
    return tokenizer


def _pad_token(folder: Path) -> str | None:
    """The padding token that the files which transformers leaves beside a vocabulary name."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json_object(folder / name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            return token
    return None


def _json_object(path: Path) -> dict:
    """What a file holds, {} if there is none. Raises: ValueError if it is no JSON object."""
    content = text_files.read_json(path, "tokenizer") if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"tokenizer {path} is no JSON object")
    return content


# See conditioning/base.py. 'find': the options are find_tokenizer's.
TOKENIZERS = text.TOKENIZERS | {"clip": clip_tokenizer, "find": find_tokenizer}
