"""Files of LoRA and its kin: their names are torch's layers, their arithmetic is written out in torch, and both ways
they keep every tensor.
"""

import json
import re

import jax
import numpy as np
import pytest

from ldm_jax.checkpoints import adapters, bundle, lora_files, words, write
from ldm_jax.checkpoints.open import open_checkpoint
from ldm_jax.commands import convert
from ldm_jax.convert import adapter_names, files, safetensors_file
from ldm_jax.inference import pipeline
from ldm_jax.params import flatten
from ldm_jax.personalization import base
from tests import tiny_models
from tests.inference.test_pipeline_parity import our_latents

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
KINDS = {"sd1": tiny_models.stable_diffusion_1, "sdxl": tiny_models.stable_diffusion_xl}
PROMPT, STEPS, RANK = "a red circle", 3, 3


class Model:
    """A tiny model here and in diffusers."""

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, folder
        bundle.save(folder / "bundle", KINDS[kind](folder / "vocabulary"))
        write.write(open_checkpoint(folder / "bundle"), folder / "diffusers", "diffusers")
        self.bundle = bundle.read(folder / "bundle")
        self.layers = adapter_names.layers(self.bundle.config, self.bundle.params)

    def theirs(self):
        name = {"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[self.kind]
        extra = dict(safety_checker=None) if self.kind == "sd1" else {}
        pipe = getattr(diffusers, name).from_pretrained(self.folder / "diffusers", **extra)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        return pipe

    def modules(self):
        """{component.name: shape of the weight} of torch's linear and convolutional layers."""
        pipe = self.theirs()
        found = {}
        for component in ("unet", "text_encoder", "text_encoder_2"):
            for name, module in getattr(getattr(pipe, component, None), "named_modules", lambda: ())():
                if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                    tower = component != "unet" and not name.startswith(("text_model", "text_projection"))
                    found[f"{component}.{'text_model.' * tower}{name}"] = tuple(module.weight.shape)
        return found


@pytest.fixture(scope="module", params=sorted(KINDS))
def model(request, tmp_path_factory):
    return Model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return Model("sd1", tmp_path_factory.mktemp("sd1"))


def factors(model, layout, form="lora", scale=0.3, alpha=True, only=lambda layer: True):
    """{name: array} of a random file for every layer that kohya trains, with LoCon's."""
    rng, found = np.random.default_rng(0), {}
    flat = flatten(model.bundle.params)
    encoders = len({layer.component for layer in model.layers}) - 1
    ends = re.compile(r"(to_[qkv]|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2|conv1|conv2|time_emb_proj|"
                      r"conv_shortcut|conv|[qkv]_proj|out_proj|fc[12])$")  # fmt: skip
    for layer in filter(only, model.layers):
        if not ends.search(layer.diffusers) or layer.diffusers.startswith("conv_"):
            continue
        *taps, wide, out = flat[layer.path].shape
        out = out // 3 if layer.part else out
        ones = (1, 1) if layer.kind != "linear" else ()
        name = adapter_names.written(layer, layout, encoders, model.kind == "sdxl")
        draw = lambda *shape: (rng.normal(size=shape) * (scale / shape[1]) ** 0.5).astype(np.float32)  # noqa: E731
        down, up = adapter_names.suffix("down", layout), adapter_names.suffix("up", layout)
        if form == "lora":
            found[name + down] = draw(RANK, wide, *(taps or ones))
            found[name + up] = draw(out, RANK, *ones)
            if alpha:
                found[f"{name}.alpha"] = np.float32(rng.uniform(1, 2 * RANK))
        else:
            found |= lycoris(name, form, draw, out, wide, taps or [1, 1] * bool(ones))
    return found


def lycoris(name, form, draw, out, wide, taps):
    flat = wide * int(np.prod(taps, dtype=int))
    if form == "loha":
        shapes = dict(w1_a=(out, RANK), w1_b=(RANK, flat), w2_a=(out, RANK), w2_b=(RANK, flat))
        found = {f"{name}.hada_{k}": draw(*shape) for k, shape in shapes.items()}
    elif form == "lokr":
        o, i = 2, 2
        found = {f"{name}.lokr_w1": draw(o, i), f"{name}.lokr_w2_a": draw(out // o, RANK)}
        found[f"{name}.lokr_w2_b"] = draw(RANK, flat // i)
    else:
        found = {f"{name}.lora_down.weight": draw(RANK, wide, *taps), f"{name}.lora_up.weight": draw(
            out, RANK, *([1, 1] if taps else []))}  # fmt: skip
        size = (out, 1) if form == "dora_out" else (1, wide)
        found[f"{name}.dora_scale"] = 1 + np.abs(draw(*size)).reshape(*size, *[1 for _ in taps])
    return found | {f"{name}.alpha": np.float32(2.0)}


def save(path, tensors, header=None, dtype=None):
    files.write_safetensors(path, tensors, dtype, header)
    return path


def applied(model, tensors, weight=1.0):
    """{(component, torch name): the weight with its update}, as kohya's and LyCORIS' code do it, in torch."""
    state = dict(weights(model))
    table = adapter_names.table(model.layers)
    modules: dict = {}
    for name, array in tensors.items():
        module, _, factor = name.partition(".")
        modules.setdefault(module, {})[factor] = torch.as_tensor(np.asarray(array))
    for module, f in modules.items():
        layer = table[adapter_names.key_of(module)]
        w = state[layer.component, layer.diffusers]
        if "lora_down.weight" in f:
            up, down = f["lora_up.weight"], f["lora_down.weight"]
            step, rank = (up.flatten(1) @ down.flatten(1)).reshape(w.shape), len(down)
        elif "hada_w1_a" in f:
            step = (f["hada_w1_a"] @ f["hada_w1_b"]) * (f["hada_w2_a"] @ f["hada_w2_b"])
            step, rank = step.reshape(w.shape), len(f["hada_w1_b"])
        else:
            w2 = f["lokr_w2_a"] @ f["lokr_w2_b"]
            w2 = w2.reshape(len(w2), -1, *w.shape[2:])
            w1 = f["lokr_w1"].reshape(*f["lokr_w1"].shape, *[1] * (w2.ndim - 2))
            step, rank = torch.kron(w1, w2).reshape(w.shape), len(f["lokr_w2_b"])
        step = step * f.get("alpha", torch.tensor(float(rank))) / rank
        if "dora_scale" in f:
            whole, scale = w + step, f["dora_scale"]
            kept = 0 if scale.shape[0] == len(w) and scale.shape[1] == 1 else 1
            axes = tuple(axis for axis in range(w.ndim) if axis != kept)
            step = whole * (scale.reshape([-1 if a == kept else 1 for a in range(w.ndim)])) / (
                whole.square().sum(axes, True).sqrt() + torch.finfo(w.dtype).eps
            ) - w  # fmt: skip
        state[layer.component, layer.diffusers] = w + weight * step
    return state


def weights(model):
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for file in (model.folder / "diffusers" / component).glob("*.safetensors"):
            for name, tensor in safetensors_file.read(file).items():
                if name.endswith(".weight"):
                    yield (component, name.removesuffix(".weight")), torch.tensor(np.array(tensor.read()))


def check_same(model, merged, expected):
    """How many changed: our merged parameters, written as diffusers does, against {(component, name): weight}."""
    tree = model.bundle._replace(params=dict(model.bundle.params, **merged))
    bundle.save(model.folder / "merged", tree)
    write.write(
        open_checkpoint(model.folder / "merged"), model.folder / "merged_theirs", "diffusers", overwrite=True
    )
    other = Model.__new__(Model)
    other.folder = model.folder
    got = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        for file in (model.folder / "merged_theirs" / component).glob("*.safetensors"):
            read = safetensors_file.read(file)
            got |= {
                (component, n.removesuffix(".weight")): t for n, t in read.items() if n.endswith(".weight")
            }
    assert got.keys() == expected.keys()
    changed = 0
    before = dict(weights(model))
    for name, want in expected.items():
        have = got[name].read()
        np.testing.assert_allclose(have, want.numpy(), atol=2e-6, rtol=2e-5, err_msg=str(name))
        changed += not np.array_equal(have, before[name].numpy())
    return changed


def test_every_layer_of_torch_has_its_name(model):
    named = {f"{layer.component}.{layer.diffusers}": layer for layer in model.layers}
    theirs = model.modules()
    assert theirs.keys() == named.keys()
    flat = flatten(model.bundle.params)
    for name, shape in theirs.items():
        layer, ours = named[name], flat[named[name].path].shape
        assert shape[0] == (ours[-1] // 3 if layer.part else ours[-1]) and shape[1] == ours[-2], name


def test_names_of_the_original_are_those_of_its_network(sd1):
    found = {layer.diffusers: layer.compvis for layer in sd1.layers if layer.component == "unet"}
    assert found["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == (
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    )
    assert found["up_blocks.1.resnets.1.conv_shortcut"] == "output_blocks.3.0.skip_connection"
    assert found["mid_block.attentions.0.proj_in"] == "middle_block.1.proj_in"


@pytest.mark.parametrize("form", ["lora", "loha", "lokr", "dora_out", "dora_in"])
def test_merged_is_what_torch_makes_of_the_file_and_it_goes_out_as_it_came(model, form, tmp_path):
    if model.kind == "sdxl" and form != "lora":
        pytest.skip("the forms do not depend on the model")
    tensors = factors(model, "kohya", form)
    header = dict(ss_network_dim="3", ss_training_comment="made up", ss_tag_frequency='{"a": 1}')
    file = save(tmp_path / "in.safetensors", tensors, header)
    adapter = adapters.read(file, model=model.bundle)
    assert header.items() <= adapter.header.items()
    merged = base.merge_delta(adapter.section, {k: model.bundle.params[k] for k in ("unet", "conditioner")},
                              adapter.delta, 0.7)  # fmt: skip
    assert check_same(model, merged, applied(model, tensors, 0.7)) == len(
        {n.partition(".")[0] for n in tensors}
    )

    adapters.save(tmp_path / "ours", adapter)
    again = adapters.read(tmp_path / "ours")
    adapters.write_file(tmp_path / "out.safetensors", again, "kohya", model.bundle)
    back = {
        name: tensor.read() for name, tensor in safetensors_file.read(tmp_path / "out.safetensors").items()
    }
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].shape == np.shape(array), name
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    assert header.items() <= safetensors_file.read_metadata(tmp_path / "out.safetensors").items()


@pytest.mark.parametrize("layout", ["diffusers", "comfy"])
def test_other_layouts_say_the_same(model, layout, tmp_path):
    tensors = factors(model, "kohya")
    adapter = adapters.read(save(tmp_path / "in.safetensors", tensors), model=model.bundle)
    adapters.write_file(tmp_path / "other.safetensors", adapter, layout, model.bundle)
    other = adapters.read(tmp_path / "other.safetensors", model=model.bundle)
    whole = {k: model.bundle.params[k] for k in ("unet", "conditioner")}
    one, two = (flatten(base.merge_delta(a.section, whole, a.delta)) for a in (adapter, other))
    for path, leaf in one.items():
        np.testing.assert_allclose(two[path], leaf, atol=1e-6, err_msg=str(path))
    first = {n: t.read() for n, t in safetensors_file.read(tmp_path / "other.safetensors").items()}
    adapters.write_file(tmp_path / "again.safetensors", other, layout, model.bundle)
    for name, tensor in safetensors_file.read(tmp_path / "again.safetensors").items():
        np.testing.assert_array_equal(tensor.read(), first[name])


@pytest.mark.parametrize(
    "spelled",
    [
        ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"),
        ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
        ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
        ("{}.processor.lora_A.default.weight", "{}.processor.lora_B.default.weight"),
        ("lycoris_{_}.lora_down.weight", "lycoris_{_}.lora_up.weight"),
    ],
)
def test_spellings(sd1, spelled, tmp_path):
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(2, 64)).astype(np.float32), rng.normal(size=(64, 2)).astype(np.float32)
    tensors = {s.format(name, _=name.replace(".", "_")): a for s, a in zip(spelled, arrays, strict=True)}
    delta = adapters.read(save(tmp_path / "x.safetensors", tensors), model=sd1.bundle).delta
    pair = delta["unet"]["mid_attn"]["block_0"]["attn1"]["to_q"]["kernel"]
    np.testing.assert_array_equal(pair["down"], arrays[0].T)
    np.testing.assert_array_equal(pair["up"], arrays[1].T)


def test_names_of_diffusers_under_kohyas_prefix_are_those_of_lcm_lora(model, tmp_path):
    """examples/consistency_distillation of diffusers writes these, of Stable Diffusion XL too."""
    tensors = factors(model, "kohya", only=lambda layer: layer.component == "unet")
    names = {adapter_names.written(a, "kohya", 1, model.kind == "sdxl"): a.diffusers for a in model.layers}
    lcm = {}
    for name, array in tensors.items():
        module, _, end = name.partition(".")
        lcm[f"lora_unet_{names[module].replace('.', '_')}.{end}"] = array
    assert (lcm.keys() == tensors.keys()) == (model.kind == "sd1")
    one, two = (
        flatten(adapters.read(save(tmp_path / "x.safetensors", t), model=model.bundle).delta)
        for t in (tensors, lcm)
    )
    assert one.keys() == two.keys() and all(np.array_equal(one[path], two[path]) for path in one)


def test_old_names_of_diffusers(sd1, tmp_path):
    old = {
        "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight": np.ones(
            (1, 64), "f"
        ),
        "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight": np.ones(
            (64, 1), "f"
        ),
        "text_encoder.text_model.encoder.layers.1.self_attn.to_v_lora.down.weight": np.ones((1, 64), "f"),
        "text_encoder.text_model.encoder.layers.1.self_attn.to_v_lora.up.weight": np.ones((64, 1), "f"),
    }
    delta = adapters.read(save(tmp_path / "x.safetensors", old), model=sd1.bundle).delta
    assert set(delta["unet"]["mid_attn"]["block_0"]["attn1"]["to_out"]["kernel"]) == {"down", "up"}
    assert set(delta["conditioner"]["clip"]["transformer"]["layer_1"]["qkv"]["kernel"]) == {"v"}


def test_pefts_header_says_alpha(sd1, tmp_path):
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": np.ones((2, 64), "f"), f"{name}.lora_B.weight": np.ones((64, 2), "f")}
    for said, alpha in (
        ({"unet.r": 2, "unet.lora_alpha": 8}, 8),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 1}}, 1),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 8 * 2**0.5),
        ({"unet.lora_alpha": 2}, None),
    ):
        header = {lora_files.PEFT_HEADER: json.dumps(said)}
        adapter = adapters.read(save(tmp_path / "x.safetensors", tensors, header), model=sd1.bundle)
        found = flatten(adapter.delta)["unet", "mid_attn", "block_0", "attn1", "to_q", "kernel", "up"]
        assert found.shape == (2, 64)
        kernel = adapter.delta["unet"]["mid_attn"]["block_0"]["attn1"]["to_q"]["kernel"]
        assert kernel.get("alpha") == (None if alpha is None else np.float32(alpha))
        adapters.write_file(tmp_path / "y.safetensors", adapter, "diffusers", sd1.bundle)
        back = safetensors_file.read(tmp_path / "y.safetensors")
        assert back.keys() == tensors.keys() and all((back[k].read() == v).all() for k, v in tensors.items())
        assert safetensors_file.read_metadata(tmp_path / "y.safetensors") == header | {"format": "pt"}


def drawn_by_theirs(pipe, latents, prompt=PROMPT):
    with torch.no_grad():
        given = dict(num_inference_steps=STEPS, guidance_scale=3.0, height=16, width=16, output_type="np")
        return pipe(prompt, latents=torch.tensor(latents.transpose(0, 3, 1, 2)), **given).images


def drawn_by_ours(model, prompt=PROMPT):
    settings = dict(num_steps=STEPS, guidance_scale=3.0, sampler="ddim", spacing="leading")
    given = model.sample_latents({"prompts": [prompt]}, [3], batch_size=1, **model.resolve(**settings))
    return np.clip((model.decode(given) + 1) / 2, 0, 1)


@pytest.mark.parametrize("layout", [pytest.param("kohya", marks=pytest.mark.slow), "diffusers"])
def test_the_same_picture_as_diffusers_with_the_same_file(model, layout, tmp_path):
    """python -m pytest -n 0 -m "slow or not slow" tests/checkpoints/test_lora_files.py -k picture"""
    pytest.importorskip("peft")
    tensors = factors(model, "kohya")
    if layout == "kohya":  # diffusers passes over alphas that differ: findings/diffusers-kohya-lora-alphas.sh
        tensors |= {name: np.float32(2.0) for name in tensors if name.endswith(".alpha")}
    file = save(tmp_path / "style.safetensors", tensors)
    if layout == "diffusers":
        adapters.write_file(file, adapters.read(file, model=model.bundle), "diffusers", model.bundle)
    ours, plain = pipeline.load(model.folder / "bundle", adapters=[(str(file), 0.7)]), model.theirs()
    latents = our_latents(ours)
    without = drawn_by_theirs(plain, latents)
    plain.load_lora_weights(file)
    plain.set_adapters(plain.get_active_adapters(), 0.7)
    expected = drawn_by_theirs(plain, latents)
    assert np.abs(expected - without).max() > 0.05
    assert np.abs(drawn_by_ours(ours) - expected).max() * 255 <= 2


def test_two_of_them_add_up(sd1, tmp_path):
    tensors = factors(sd1, "kohya")
    file = save(tmp_path / "x.safetensors", tensors)
    adapter = adapters.read(file, model=sd1.bundle)
    twice = adapters.merged(sd1.bundle.params, [(adapter, 0.5), (adapter, 0.25)])
    once = adapters.merged(sd1.bundle.params, [(adapter, 0.75)])
    for path, leaf in flatten(once).items():
        np.testing.assert_allclose(flatten(twice)[path], leaf, atol=1e-6)


@pytest.mark.parametrize("name", ["lora", "loha"])
def test_a_word_that_is_learned_beside_goes_out_as_a_file_of_its_own(sd1, name, tmp_path, capsys):
    section = dict(name=name, rank=2, token="<it>")
    grown = words.add(sd1.bundle, base.new_words(section))
    whole = {k: grown.params[k] for k in ("unet", "conditioner")}
    began = base.init_delta(section, jax.random.key(0), whole)
    random = np.random.default_rng(0)
    delta = jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(np.float32), began)
    adapter = adapters.Adapter(section, delta, "")
    adapters.save(tmp_path / "ours", adapter)
    asked = [
        str(tmp_path / "ours"),
        str(tmp_path / "it.safetensors"),
        "--to",
        "kohya",
        "--base",
        str(sd1.folder / "bundle"),
    ]
    convert.main(asked)
    assert "it_word.safetensors: the word that was learned beside" in capsys.readouterr().out
    (tmp_path / "it.safetensors").unlink()
    with pytest.raises(ValueError, match="it_word.safetensors exists, the adapter's word goes there"):
        convert.main(asked)
    convert.main([*asked, "--overwrite"])
    files = [adapters.read(tmp_path / f"{n}.safetensors", model=sd1.bundle) for n in ("it", "it_word")]
    assert files[1].section == dict(name="textual_inversion", token="<it>", vectors=1)
    one = adapters.applied(sd1.bundle, [(adapter, 1.0)])
    two = adapters.applied(sd1.bundle, [(file, 1.0) for file in files[::-1]])
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab() != sd1.bundle.tokenizer.get_vocab()
    for path, leaf in flatten(one.params).items():
        np.testing.assert_allclose(flatten(two.params)[path], leaf, atol=1e-6, err_msg=str(path))


def test_what_lies_between_two_models_is_extracted(sd1, tmp_path, capsys):
    tensors = factors(sd1, "kohya", alpha=False)
    file = save(tmp_path / "x.safetensors", tensors)
    adapter = adapters.read(file, model=sd1.bundle)
    tuned = sd1.bundle._replace(params=adapters.merged(sd1.bundle.params, [(adapter, 1.0)]))
    bundle.save(tmp_path / "tuned", tuned)
    base_folder = str(sd1.folder / "bundle")
    convert.main([str(tmp_path / "tuned"), str(tmp_path / "out.safetensors"), "--to", "kohya", "--base", base_folder,
                  "--rank", str(RANK)])  # fmt: skip
    found = adapters.read(tmp_path / "out.safetensors", model=sd1.bundle)
    again = flatten(adapters.merged(sd1.bundle.params, [(found, 1.0)]))
    for path, leaf in flatten(tuned.params).items():
        np.testing.assert_allclose(again[path], leaf, atol=1e-5, err_msg=str(path))
    low = flatten(
        adapters.extract(sd1.bundle, tuned, 1).delta
    )  # the rest is what the other singular values hold
    path = ("unet", "mid_attn", "block_0", "attn1", "to_q", "kernel")
    step = flatten(tuned.params)[path] - flatten(sd1.bundle.params)[path]
    left = step - low[*path, "down"] @ low[*path, "up"]
    values = np.linalg.svd(step, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(left), np.linalg.norm(values[1:]), rtol=1e-4)
    convert.main([str(tmp_path / "out.safetensors"), str(tmp_path / "peft.safetensors"), "--to", "diffusers", "--base",
                  base_folder])  # fmt: skip
    assert "written as diffusers" in capsys.readouterr().out
    assert all(
        n.endswith(("lora_A.weight", "lora_B.weight"))
        for n in safetensors_file.read(tmp_path / "peft.safetensors")
    )


def broken(change):
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {
        f"{name}.lora_down.weight": np.ones((2, 64), "f"),
        f"{name}.lora_up.weight": np.ones((64, 2), "f"),
    }
    return change(name, tensors) or tensors


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda n, t: t.pop(f"{n}.lora_up.weight") * 0 is None, "attn2_to_k has down and no up, expected both"),
        (lambda n, t: t.update({f"{n}.lora_up.weight": np.full((64, 2), np.nan, "f")}), "has NaN or infinity in it"),
        (
            lambda n, t: t.update({f"{n}.lora_down.weight": np.ones((2, 2048), "f")}),
            r"adapter for another base, it fits Stable Diffusion XL and this model's context is 64 wide: 1 of its 1 "
            r"layers do not fit this model: .*attn2_to_k is for \(2048, 64\), here \(64, 64\)",
        ),
        (
            lambda n, t: {f"{n}.lora_{k}.weight": np.ones(s, "f") for k, s in (("down", (65, 64)), ("up", (64, 65)))},
            "attn2_to_k has rank 65, expected at most 64, the layer's width",
        ),
        (lambda n, t: {k.replace("mid_block", "foot_block"): v for k, v in t.items()}, "foot_block.* is not there"),
        (lambda n, t: {**t, f"{n}.oft_blocks": np.ones((2, 2, 2), "f")}, "oft_blocks is OFT, which is not read"),
        (lambda n, t: {f"{n}.alpha": np.float32(1)}, "has alpha alone, expected factors beside"),
        (lambda n, t: {"x.weight": np.ones(2, "f")}, "is no adapter: got names such as x.weight"),
    ],
)  # fmt: skip
def test_bad_files(change, said, sd1, tmp_path):
    file = save(tmp_path / "bad.safetensors", broken(change))
    with pytest.raises(ValueError, match=said):
        adapters.read(file, model=sd1.bundle)


def test_a_file_is_read_for_a_model(sd1, tmp_path):
    file = save(tmp_path / "x.safetensors", broken(lambda n, t: None))
    with pytest.raises(ValueError, match="names the layers of a model"):
        adapters.read(file)
    with pytest.raises(ValueError, match="--to kohya writes an adapter: say whose with --base MODEL"):
        convert.main([str(file), str(tmp_path / "y.safetensors"), "--to", "kohya"])
    loha = adapters.read(save(tmp_path / "l.safetensors", factors(sd1, "kohya", "loha")), model=sd1.bundle)
    with pytest.raises(
        ValueError, match="diffusers has no names for hada_w1_a, which this adapter has; write kohya"
    ):
        adapters.write_file(tmp_path / "z.safetensors", loha, "diffusers", sd1.bundle)
