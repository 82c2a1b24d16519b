"""CLIP's tokenizer against transformers' and by hand, where it is looked for, and which layer conditions."""

import json

import jax
import numpy as np
import pytest

from ldm_jax.conditioning import clip, text
from ldm_jax.system import make_parts
from tests.conditioning import tiny_clip
from tests.conditioning.examples import EXAMPLES, setting

CAPTIONS = [
    "A red circle and a  Red\tcircle",
    "",
    "  the café's naïve 1234 circles!!! don't... \n émigré",
    "日本 🙂 x² ½ <|endoftext|> red <|startoftext|> <|ENDofText|>",
    "I'll we've they're I'm he'd it'S 'tis",
    "&amp; a_b-c  \u00a0 x\u0301 e\u0301 ﬁ İ Σας",
    " ".join(["circle"] * 40),
    "<|ENDofText|> a <|endoftext|>",
]
LENGTH = 20


@pytest.fixture
def folder(tmp_path):
    tiny_clip.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "a</w>"])
def test_the_tokenizer_is_transformers(folder, pad_token):
    transformers = pytest.importorskip("transformers")
    files = {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}
    if int(transformers.__version__.split(".")[0]) >= 5:
        files = {"vocab": files["vocab_file"], "merges": files["merges_file"]}
    theirs = transformers.CLIPTokenizerFast(**files, pad_token=pad_token, model_max_length=LENGTH)
    expected = theirs(CAPTIONS, padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
    pad_id = tiny_clip.vocabulary()[pad_token]
    tokens = text.tokenize(CAPTIONS, clip.clip_tokenizer(folder, LENGTH, pad_id))["tokens"]
    for caption, ours, wanted in zip(CAPTIONS, tokens, expected, strict=True):
        np.testing.assert_array_equal(ours, wanted, err_msg=caption)


EXCLAIMED = ["!", "red! red!! !", "a!red"]


def transformers_tokenizer(folder, **options):
    transformers = pytest.importorskip("transformers")
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    return transformers.CLIPTokenizer(**files, **options)


@pytest.mark.parametrize("pad_token", ["!", "<|pad|>"])
def test_what_is_padded_with_is_an_ordinary_token_whatever_the_file_declares(folder, tmp_path, pad_token):
    saved = tmp_path / "saved"
    transformers_tokenizer(folder, pad_token=pad_token).save_pretrained(str(saved))
    declared = json.loads((saved / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    assert {"content": pad_token, "special": True}.items() <= declared[
        -1 if "pad" in pad_token else 0
    ].items()
    ours = clip.clip_tokenizer(folder, LENGTH, 0)
    expected = text.tokenize(EXCLAIMED + CAPTIONS, ours)["tokens"]
    assert expected[0, 1] == ids("!</w>")[0]
    for open_file in (clip.clip_tokenizer, clip.find_tokenizer):
        loaded = open_file(saved, LENGTH, 0)
        np.testing.assert_array_equal(text.tokenize(EXCLAIMED + CAPTIONS, loaded)["tokens"], expected)
    loaded.save(str(tmp_path / "tokenizer.json"))
    again = text.load_tokenizer(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(text.tokenize(EXCLAIMED, again)["tokens"], expected[: len(EXCLAIMED)])
    if pad_token != "!":
        assert clip.clip_tokenizer(saved, LENGTH).padding["pad_id"] == len(tiny_clip.vocabulary())


PROMPTS = ["a <foo> red", "<foo>", "<foo>, <one>!", "red <FOO>s", "nothing of it", "<foo> <foo>_1 <foo>_2"]
ADDED = ["<foo>", "<foo>_1", "<foo>_2", "<one>", "<other>_1"]


def test_a_token_of_several_vectors_stands_for_all_of_them(folder, tmp_path):
    theirs = transformers_tokenizer(folder)
    theirs.add_tokens(ADDED)
    theirs.save_pretrained(str(tmp_path / "saved"))
    loaded = clip.find_tokenizer(tmp_path / "saved", LENGTH)
    foo = [len(tiny_clip.vocabulary()) + i for i in range(3)]
    bos, eos = ids("<|startoftext|>", "<|endoftext|>")
    tokens = text.tokenize(PROMPTS, loaded)["tokens"]
    for row, expected in {
        0: [*ids("a</w>"), *foo, *ids("red</w>")],
        3: [*ids("red</w>"), *foo, *ids("s</w>")],
        5: foo,
    }.items():
        assert tokens[row].tolist() == [bos, *expected, *[eos] * (LENGTH - 1 - len(expected))]
    diffusers = pytest.importorskip("diffusers")
    mixin = diffusers.loaders.TextualInversionLoaderMixin()
    for prompt, row in zip(
        PROMPTS[:3], tokens, strict=False
    ):  # it knows neither capitals nor what is written out
        converted = mixin.maybe_convert_prompt(prompt, theirs)
        np.testing.assert_array_equal(
            row[: len(theirs(converted)["input_ids"])], theirs(converted)["input_ids"]
        )
    assert text.expanded(PROMPTS, clip.clip_tokenizer(folder)) == PROMPTS


def entry(content):
    plain = {"lstrip": False, "rstrip": False, "single_word": False}
    return {"content": content, "special": content in ("!", *text.CLIP_MARKS), "normalized": True} | plain


@pytest.mark.parametrize("file", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_that_were_added_to_a_vocabulary_lie_beside_it(folder, file):
    size = len(tiny_clip.vocabulary())
    placed = {token: size + i for i, token in enumerate(ADDED)}
    if file == "tokenizer_config.json":
        known = {"!": 0, "<|endoftext|>": size - 1}
        decoder = {str(i): entry(token) for token, i in (known | placed).items()}
        (folder / file).write_text(json.dumps({"pad_token": "!", "added_tokens_decoder": decoder}))
    else:
        (folder / file).write_text(json.dumps(placed))
    tokenizer = clip.find_tokenizer(folder, LENGTH, 0)
    foo = [size, size + 1, size + 2]
    bos, eos = ids("<|startoftext|>", "<|endoftext|>")
    tokens = text.tokenize(["red <foo>!"], tokenizer)["tokens"][0]
    assert tokens[:7].tolist() == [bos, *ids("red</w>"), *foo, *ids("!</w>"), eos]
    for wrong, message in ((size + 9, "expected 52\\d, the next"), ("x", "form that is not known")):
        (folder / "tokenizer_config.json").unlink(missing_ok=True)
        (folder / "added_tokens.json").write_text(json.dumps({"<foo>": wrong}))
        with pytest.raises(ValueError, match=message):
            clip.clip_tokenizer(folder)


def ids(*tokens):
    vocabulary = tiny_clip.vocabulary()
    return [vocabulary[token] for token in tokens]


def test_the_tokenizer_by_hand(folder):
    tokenizer = clip.clip_tokenizer(folder / "vocab.json", 9)
    tokens = text.tokenize(["Red CIRCLE's!", "red red red red red red red red red"], tokenizer)["tokens"]
    bos, eos = ids("<|startoftext|>", "<|endoftext|>")
    np.testing.assert_array_equal(
        tokens[0], [bos, *ids("red</w>", "circle</w>", "'s</w>", "!</w>"), *[eos] * 4]
    )
    # a caption that is too long keeps its first words, and its end
    np.testing.assert_array_equal(tokens[1], [bos, *ids("red</w>") * 7, eos])
    zeros = text.tokenize(["red"], clip.clip_tokenizer(folder, 9, pad_id=0))["tokens"][0]
    np.testing.assert_array_equal(zeros, [bos, *ids("red</w>"), eos, 0, 0, 0, 0, 0, 0])
    assert clip.clip_tokenizer(folder).padding["length"] == 77
    # "!" may be what is padded with, and stays itself in a caption
    exclaimed = text.tokenize(["!"], clip.clip_tokenizer(folder, 4, pad_id=0))["tokens"][0]
    np.testing.assert_array_equal(exclaimed, [bos, *ids("!</w>"), eos, 0])


@pytest.mark.parametrize("pad_token", ["!", {"content": "!", "lstrip": False}])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_padding_is_what_the_files_beside_it_say(folder, file, pad_token):
    (folder / file).write_text(json.dumps({"pad_token": pad_token}))
    assert text.tokenize([""], clip.clip_tokenizer(folder, 4))["tokens"][0, -1] == 0
    eos = ids("<|endoftext|>")[0]
    assert text.tokenize([""], clip.clip_tokenizer(folder, 4, pad_id=eos))["tokens"][0, -1] == eos
    (folder / file).write_text("[")
    with pytest.raises(ValueError, match=f"{file} is no JSON"):
        clip.clip_tokenizer(folder)


def test_a_saved_tokenizer_is_the_same(folder, tmp_path_factory):
    saved = tmp_path_factory.mktemp("saved")
    tokenizer = clip.clip_tokenizer(folder, LENGTH, 0)
    tokenizer.save(str(saved / "tokenizer.json"))
    expected = text.tokenize(CAPTIONS, tokenizer)["tokens"]
    for loaded in (
        text.load_tokenizer(saved / "tokenizer.json"),
        clip.clip_tokenizer(saved, LENGTH),
        clip.find_tokenizer(saved / "model.ckpt", LENGTH),
    ):
        np.testing.assert_array_equal(text.tokenize(CAPTIONS, loaded)["tokens"], expected)


def test_a_tokenizer_is_found_with_its_checkpoint(folder, tmp_path_factory):
    expected = text.tokenize(["red"], clip.clip_tokenizer(folder, 5))["tokens"]
    checkpoint = tmp_path_factory.mktemp("model")
    inner = checkpoint / "tokenizer_2"
    inner.mkdir()
    tiny_clip.write(inner)
    for path in (
        folder,
        folder / "model.ckpt",
        folder / "vocab.json",
        folder / "merges.txt",
        checkpoint,
        inner,
    ):
        np.testing.assert_array_equal(
            text.tokenize(["red"], clip.find_tokenizer(path, 5))["tokens"], expected
        )
    bert = checkpoint / "tokenizer"  # looked in before tokenizer_2
    bert.mkdir()
    (bert / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n")
    for path in (checkpoint, bert / "vocab.txt"):
        tokens = text.tokenize(["red"], clip.find_tokenizer(path, 5))["tokens"]
        np.testing.assert_array_equal(tokens, [[2, 4, 3, 0, 0]])


def test_a_tokenizer_that_is_not_there_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ValueError) as error:
        clip.find_tokenizer(tmp_path / "model.safetensors")
    said = str(error.value)
    for part in ("tokenizer.json", "vocab.json with merges.txt", "vocab.txt", f"{tmp_path / 'tokenizer_2'}"):
        assert part in said
    assert "\n" not in said
    with pytest.raises(ValueError, match=f"no BPE vocabulary at {tmp_path}; expected a tokenizer.json"):
        clip.clip_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    for make in (clip.clip_tokenizer, clip.find_tokenizer):
        with pytest.raises(ValueError, match="merges.txt"):
            make(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="expected CLIP's vocabulary"):
        clip.clip_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text("not json")
    with pytest.raises(ValueError, match="is no JSON"):
        clip.clip_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer.json"):
        clip.find_tokenizer(tmp_path)


def test_a_pad_id_is_of_the_vocabulary(folder):
    with pytest.raises(ValueError, match=r"pad_id=999, expected 0 to 52\d"):
        clip.clip_tokenizer(folder, pad_id=999)


def test_a_config_names_its_tokenizer(folder):
    tower = dict(width=8, num_layers=1, num_heads=2, max_length=6)
    for name, option in (("clip", "vocab_file"), ("find", "path")):
        section = dict(name="clip", **tower, tokenizer={"name": name, option: str(folder), "max_length": 6})
        (part,), tokenizer = make_parts(section)
        assert part.conditioner.vocab_size == tokenizer.get_vocab_size() == len(tiny_clip.vocabulary())


def test_a_tokenizer_of_another_model_is_refused(folder):
    conditioner = clip.Conditioner(width=8, num_layers=1, num_heads=2, vocab_size=10, max_length=6)
    with pytest.raises(ValueError, match="expected 0 to 9: it is another model's"):
        clip.inputs({"prompts": ["red"]}, setting(conditioner, clip.clip_tokenizer(folder, 6)))
    with pytest.raises(ValueError, match="no tokenizer"):
        clip.inputs({"prompts": ["red"]}, setting(conditioner))


def test_the_context_is_the_layer_that_is_asked_for():
    example = EXAMPLES["clip"]()
    inputs = clip.inputs(example.given, example.setting)
    shown = example.setting.conditioner
    shapes = jax.eval_shape(shown.init, jax.random.key(0), inputs)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)
    params["params"]["transformer"]["norm"] = {"scale": np.ones(shown.width), "bias": np.zeros(shown.width)}
    choices = [(layer, norm) for layer in ("last", "penultimate") for norm in (True, False)]

    @jax.jit
    def read(params):
        return [shown.clone(layer=a, final_norm=b).apply(params, inputs).context for a, b in choices]

    contexts = dict(zip(choices, read(params), strict=True))
    assert all(c.shape == (2, shown.max_length, shown.width) for c in contexts.values())
    values = [np.asarray(c) for c in contexts.values()]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(values) for b in values[:i])
    raw = np.asarray(contexts["penultimate", False])
    normed = (raw - raw.mean(-1, keepdims=True)) / np.sqrt(raw.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(contexts["penultimate", True], normed, atol=1e-4)
    with pytest.raises(ValueError, match="layer='first', expected 'last', 'penultimate', or a number"):
        shown.clone(layer="first").apply(params, inputs)
