"""Makes torch/ and safetensors/: small files as torch.save and safetensors write them, and expected.json.

    pip install torch==2.13.0 safetensors==0.8.0 numpy==2.4.6 && python make_torch.py

expected.json: {file: {name: [dtype, shape, numbers]}} as torch itself reads them, bare of wrappers' names; or
{file: the dtype that is not read}. Complex numbers are pairs.
"""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

HERE = Path(__file__).parent


def plain() -> dict:
    f = torch.arange(12.0).reshape(3, 4) / 8 - 0.5
    return OrderedDict(
        float=f,
        half=f.half(),
        bfloat=f.bfloat16(),
        double=f.double(),
        long=torch.tensor([-(2**40), 7]),
        byte=torch.tensor([0, 200, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        complex=torch.tensor([1 + 2j, 3 - 1j]),
        scalar=torch.tensor(2.5),
        none=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(f[0]),
    )


def views() -> dict:
    f = torch.arange(12.0).reshape(3, 4)
    return dict(whole=f, turned=f.T, part=f[1:, ::2], repeated=torch.ones(2, 1).expand(2, 3))


def eights() -> dict:
    f = torch.tensor([[0.5, -1.75], [448.0, 0.0]])
    return dict(
        e4m3=f.to(torch.float8_e4m3fn), e5m2=f.to(torch.float8_e5m2), turned=f.to(torch.float8_e5m2).T
    )


def with_attributes() -> dict:
    found = dict(
        parameter=torch.nn.Parameter(torch.arange(3.0)),
        buffer=torch.nn.Buffer(torch.arange(2.0)),
        tensor=torch.arange(4.0),
    )
    found["parameter"].note = found["tensor"].note = "kept by its owner"
    return found


def lazy() -> dict:
    z = torch.tensor([1 + 2j, 3 - 1j])
    return dict(conjugated=z.conj(), negated=torch.tensor([1 + 2j, 3 - 1j]).conj().imag)


def unread() -> dict:
    quantized = torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8)
    return dict(
        qint8=quantized,
        float8_e8m0fnu=torch.ones(2).to(torch.float8_e8m0fnu),
        complex32=torch.ones(2, dtype=torch.complex32),
    )


def described(tensors: dict) -> dict:
    found = {}
    for name, tensor in tensors.items():
        name = ".".join(part for part in name.split(".") if part != "_orig_mod")
        tensor = tensor.detach().resolve_conj().resolve_neg()
        wide = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        wide = wide.float() if tensor.is_floating_point() and tensor.itemsize < 4 else wide
        found[name] = [str(tensor.dtype).removeprefix("torch."), list(tensor.shape), wide.tolist()]
    return found


def main() -> None:
    for folder in ("torch", "safetensors"):
        (HERE / folder).mkdir(exist_ok=True)
    torch.manual_seed(0)
    compiled = torch.compile(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)))
    inside = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.compile(torch.nn.Linear(3, 1)))
    written = {
        "torch/lightning.ckpt": {"state_dict": plain(), "epoch": 3, "lr": 1e-4, "seen": {1}, "none": None},
        "torch/views.pt": views(),
        "torch/float8.pt": eights(),
        "torch/attributes.pt": with_attributes(),
        "torch/lazy.pt": lazy(),
        "torch/compiled.pt": compiled.state_dict(),
        "torch/compiled_inside.pt": inside.state_dict(),
    }
    expected = {}
    for file, content in written.items():
        torch.save(content, HERE / file)
        read = torch.load(HERE / file, weights_only=True)
        expected[file] = described(read.get("state_dict", read))
    torch.save(
        written["torch/lightning.ckpt"], HERE / "torch/legacy.ckpt", _use_new_zipfile_serialization=False
    )
    expected["torch/legacy.ckpt"] = described(
        torch.load(HERE / "torch/legacy.ckpt", weights_only=True)["state_dict"]
    )
    torch.serialization.set_crc32_options(False)
    torch.save(plain(), HERE / "torch/no_checksums.pt")
    torch.serialization.set_crc32_options(True)
    expected["torch/no_checksums.pt"] = described(
        torch.load(HERE / "torch/no_checksums.pt", weights_only=True)
    )
    for dtype, tensor in unread().items():
        torch.save({"weight": tensor}, HERE / f"torch/{dtype}.pt")
        expected[f"torch/{dtype}.pt"] = dtype
    real = {name: tensor for name, tensor in plain().items() if name != "parameter"}
    eight = {name: tensor.contiguous() for name, tensor in eights().items()}
    for file, tensors in (("plain", real), ("float8", eight), ("compiled", compiled.state_dict())):
        safetensors.torch.save_file(
            tensors, HERE / f"safetensors/{file}.safetensors", {"format": "pt", "title": "ä\n"}
        )
        read = safetensors.torch.load_file(HERE / f"safetensors/{file}.safetensors")
        expected[f"safetensors/{file}.safetensors"] = described(read)
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    safetensors.numpy.save_file({"weight": array}, HERE / "safetensors/numpy.safetensors")
    expected["safetensors/numpy.safetensors"] = {"weight": ["uint16", [2, 3], array.tolist()]}
    lines = [f"{json.dumps(file)}: {json.dumps(tensors)}" for file, tensors in sorted(expected.items())]
    (HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
