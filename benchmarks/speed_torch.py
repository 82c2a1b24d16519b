"""PyTorch's side of benchmarks/speed.py: diffusers' modules with our weights, asked the same question in a process of
its own.

Decides how they are run: evaluation in inference mode, training with autocast as diffusers' own training scripts do it,
sampling as its pipelines do it, without their progress bars and checks. It opens the diffusers folder that
speed_models.py wrote, and imports no jax.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from benchmarks import speed_turns

DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)


class Networks:
    """The modules of a diffusers folder on one device. request['torch']: 'eager', 'channels_last' or 'compile'."""

    def __init__(self, request: dict[str, Any]):
        self.folder, self.request = Path(request["weights"]) / "diffusers", request
        self.device = "cuda" if request["device"] == "gpu" else "cpu"
        self.dtype = DTYPES[request["dtype"]]
        self.layout = torch.contiguous_format if request["torch"] == "eager" else torch.channels_last

    def open(self, kind: Any, part: str, dtype: torch.dtype | None = None) -> Any:
        """One module, as its file says, in dtype (None: the run's)."""
        module = kind.from_pretrained(self.folder / part, torch_dtype=self.dtype if dtype is None else dtype)
        module = module.to(self.device)
        images = not part.startswith("text_encoder")
        return module.to(memory_format=self.layout) if images else module

    def unet(self, dtype: torch.dtype | None = None) -> Any:
        section = json.loads((self.folder / "unet" / "config.json").read_text())
        return self.open(getattr(diffusers, section["_class_name"]), "unet", dtype)

    def first_stage(self) -> Any:
        vq = (self.folder / "vqvae").is_dir()
        name, kind = ("vqvae", diffusers.VQModel) if vq else ("vae", diffusers.AutoencoderKL)
        return self.open(kind, name).eval()

    def compiled(self, function: Any) -> Any:
        mode = self.request["compile_mode"]
        return torch.compile(function, mode=mode) if self.request["torch"] == "compile" else function

    def images(self, array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        """[B,h,w,c] of numpy as [B,c,h,w] here."""
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
        return tensor.to(self.device, self.dtype if dtype is None else dtype).to(memory_format=self.layout)

    def array(self, array: np.ndarray, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, dtype)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def answer(request: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[Any], dict[str, np.ndarray]]]:
    """As speed_jax.answer."""
    fast = request["dtype"] != "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
    given = dict(np.load(Path(request["run"]) / "inputs.npz"))
    return ANSWERS[request["question"]](Networks(request), given)


def _conditions(nets: Networks, given: dict, dtype: torch.dtype) -> dict[str, Any]:
    """The keyword arguments of a UNet that say what it is conditioned on."""
    out: dict[str, Any] = {}
    if "context" in given:
        out["encoder_hidden_states"] = nets.array(given["context"], dtype)
    if "text_embeds" in given:
        names = ("text_embeds", "time_ids")
        out["added_cond_kwargs"] = {name: nets.array(given[name], dtype) for name in names}
    return out


def nhwc(images: torch.Tensor) -> np.ndarray:
    return images.detach().permute(0, 2, 3, 1).float().cpu().numpy()


def forward(nets: Networks, given: dict):
    unet, x, t = nets.unet().eval(), nets.images(given["x"]), nets.array(given["t"])
    run, conditions = nets.compiled(unet), _conditions(nets, given, nets.dtype)

    @torch.inference_mode()
    def call():
        out = run(x, t, **conditions, return_dict=False)[0]
        nets.wait()
        return out

    return call, lambda out: dict(prediction=nhwc(out))


def _training(nets: Networks, given: dict) -> tuple[Any, Callable[[], torch.Tensor]]:
    """(the UNet with float32 weights, a function that adds the gradients of the loss and gives the loss)."""
    unet = nets.unet(torch.float32).train()
    run, conditions = nets.compiled(unet), _conditions(nets, given, torch.float32)
    x, noise = (nets.images(given[name], torch.float32) for name in ("x", "noise"))
    t, mixed = nets.array(given["t"]), nets.dtype != torch.float32

    def backward():
        with torch.autocast(nets.device, nets.dtype, enabled=mixed):
            prediction = run(x, t, **conditions, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction.float(), noise)
        loss.backward()
        return loss

    return unet, backward


def gradients(nets: Networks, given: dict):
    unet, backward = _training(nets, given)

    def call():
        unet.zero_grad(set_to_none=True)
        loss = backward()
        nets.wait()
        return loss

    def shown(loss):
        norm = _norm([p.grad for p in unet.parameters() if p.grad is not None])
        return dict(loss=loss.item(), norm=norm, conv_in=unet.conv_in.weight.grad.cpu().numpy())

    return call, shown


def train_step(nets: Networks, given: dict):
    unet, backward = _training(nets, given)
    before = [p.detach().clone() for p in unet.parameters()]
    # The optimizer of the configs; fused is torch's fastest.
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=nets.request["learning_rate"], weight_decay=1e-2, fused=nets.device == "cuda"
    )

    def call():
        optimizer.zero_grad(set_to_none=True)
        loss = backward()
        optimizer.step()
        nets.wait()
        return loss

    def shown(loss):
        change = _norm([p.detach() - old for p, old in zip(unet.parameters(), before, strict=True)])
        before.clear()
        return dict(loss=loss.item(), change=change)

    return call, shown


def _norm(tensors: list[torch.Tensor]) -> float:
    return torch.stack([t.float().square().sum() for t in tensors]).sum().sqrt().item()


def decode(nets: Networks, given: dict):
    first_stage, latents = nets.first_stage(), nets.images(given["latents"])
    run = nets.compiled(first_stage.decode)

    @torch.inference_mode()
    def call():
        return nhwc(run(latents / first_stage.config.scaling_factor, return_dict=False)[0])

    return call, lambda images: dict(images=images)


def sampling(nets: Networks, given: dict):
    """Text encoders, DDIM with guidance in one doubled batch, first stage, and uint8 on the host."""
    unet, first_stage = nets.unet().eval(), nets.first_stage()
    scheduler = diffusers.DDIMScheduler.from_pretrained(nets.folder / "scheduler")
    run, to_images = nets.compiled(unet), nets.compiled(first_stage.decode)
    encode = _encoders(nets, given)
    noise, scale = nets.images(given["x_T"]), nets.request["guidance_scale"]

    @torch.inference_mode()
    def call():
        # The scheduler's own stay on the host: from the GPU it would wait for each, as pipelines do.
        scheduler.set_timesteps(nets.request["steps"])
        conditions, x, timesteps = encode(), noise, scheduler.timesteps.to(nets.device)
        for t, t_there in zip(scheduler.timesteps, timesteps, strict=True):
            if conditions:
                out = run(torch.cat([x, x]), t_there, **conditions, return_dict=False)[0]
                uncond, cond = out.chunk(2)
                eps = uncond + scale * (cond - uncond)
            else:
                eps = run(x, t_there, return_dict=False)[0]
            x = scheduler.step(eps, t, x, return_dict=False)[0]
        images = to_images(x / first_stage.config.scaling_factor, return_dict=False)[0]
        return ((images / 2 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    return call, lambda pictures: dict(pictures=pictures)


def _encoders(nets: Networks, given: dict) -> Callable[[], dict[str, Any]]:
    """() -> the UNet's keyword arguments for [nothing, the caption], 2 B each; {} for an unconditional model."""
    if "tokens" not in given:
        return dict
    import transformers

    tokens, null = (nets.array(given[name]) for name in ("tokens", "null_tokens"))
    first = nets.open(transformers.CLIPTextModel, "text_encoder").eval()
    if not (nets.folder / "text_encoder_2").is_dir():
        return lambda: dict(encoder_hidden_states=first(torch.cat([null, tokens])).last_hidden_state)
    second = nets.open(transformers.CLIPTextModelWithProjection, "text_encoder_2").eval()
    sizes = nets.array(given["time_ids"], nets.dtype)

    def encode():
        narrow, wide = (tower(tokens, output_hidden_states=True) for tower in (first, second))
        context = torch.cat([out.hidden_states[-2] for out in (narrow, wide)], dim=-1)
        pooled = wide.text_embeds
        added = dict(
            text_embeds=torch.cat([torch.zeros_like(pooled), pooled]), time_ids=torch.cat([sizes, sizes])
        )
        return dict(
            encoder_hidden_states=torch.cat([torch.zeros_like(context), context]), added_cond_kwargs=added
        )

    return encode


ANSWERS = dict(forward=forward, gradients=gradients, train_step=train_step, decode=decode, sampling=sampling)


def facts() -> dict[str, Any]:
    """As speed_jax.facts, and how many threads torch takes by itself."""
    return dict(
        versions=speed_turns.versions("torch", "diffusers", "transformers"),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=torch.get_num_threads(),
    )


def main() -> None:
    speed_turns.serve("torch", sys.argv[1], answer, facts)


if __name__ == "__main__":
    main()
