"""The original's LatentDiffusion once more, in PyTorch and of our own writing: names of its state dict, conditions,
DDIM.

See torch_networks.py. Source: CompVis/latent-diffusion@a506df5 and Stability-AI/stablediffusion@cf1d67a,
ldm/models/diffusion/ ddpm.py and ddim.py, ldm/modules/ema.py, ldm/modules/encoders/modules.py,
ldm/modules/x_transformer.py.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tests.corpus.original.torch_networks import Autoencoder, CrossAttention, UNetModel


class ClassEmbedder(nn.Module):
    def __init__(self, embed_dim, n_classes=1000, **_):
        super().__init__()
        self.embedding = nn.Embedding(n_classes, embed_dim)

    def forward(self, labels):
        return self.embedding(labels)[:, None]


class SpatialRescaler(nn.Module):
    def __init__(self, n_stages=1, in_channels=3, out_channels=None, **_):
        super().__init__()
        self.n_stages = n_stages
        if out_channels is not None:
            self.channel_mapper = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x):
        for _ in range(self.n_stages):
            x = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        return self.channel_mapper(x) if hasattr(self, "channel_mapper") else x


class _Embedding(nn.Module):
    def __init__(self, length, width):
        super().__init__()
        self.emb = nn.Embedding(length, width)


class _FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        first = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU())
        self.net = nn.Sequential(first, nn.Dropout(0.0), nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class _SelfAttention(CrossAttention):
    def __init__(self, width):
        super().__init__(width, width, 8, 512)
        self.to_out = nn.Linear(512, width)

    def forward(self, x):
        return super().forward(x, x)


class BERTEmbedder(nn.Module):
    """With tokens given."""

    def __init__(self, n_embed, n_layer, vocab_size=30522, max_seq_len=77, **_):
        super().__init__()
        t = self.transformer = nn.Module()
        t.token_emb, t.pos_emb = nn.Embedding(vocab_size, n_embed), _Embedding(max_seq_len, n_embed)
        t.attn_layers, layers = nn.Module(), []
        for _ in range(n_layer):
            layers.append(nn.ModuleList([nn.LayerNorm(n_embed), _SelfAttention(n_embed)]))
            layers.append(nn.ModuleList([nn.LayerNorm(n_embed), _FeedForward(n_embed)]))
        t.attn_layers.layers = nn.ModuleList(layers)
        t.norm, t.to_logits = nn.LayerNorm(n_embed), nn.Linear(n_embed, vocab_size)

    def forward(self, tokens):
        t = self.transformer
        x = t.token_emb(tokens) + t.pos_emb.emb.weight[: tokens.shape[1]]
        for before, layer in t.attn_layers.layers:
            x = x + layer(before(x))
        return t.norm(x)


CONDITIONERS = dict(ClassEmbedder=ClassEmbedder, SpatialRescaler=SpatialRescaler, BERTEmbedder=BERTEmbedder)


def last(target: str) -> str:
    return target.rsplit(".", 1)[-1]


def make_betas(name, timesteps, start, end, s):
    """[T] float64."""
    if name == "linear":
        return np.linspace(start**0.5, end**0.5, timesteps) ** 2
    if name == "sqrt_linear":
        return np.linspace(start, end, timesteps)
    assert name == "cosine"
    signal = np.cos((np.arange(timesteps + 1) / timesteps + s) / (1 + s) * np.pi / 2) ** 2
    return np.clip(1 - signal[1:] / signal[:-1], 0, 0.999)


def make_tables(params: dict) -> dict[str, np.ndarray]:
    """{name: [T] float32}: the buffers of a LatentDiffusion with these params."""
    betas = make_betas(
        params.get("beta_schedule", "linear"), params.get("timesteps", 1000), params.get("linear_start", 1e-4),
        params.get("linear_end", 2e-2), params.get("cosine_s", 8e-3),
    )  # fmt: skip
    signal, v = np.cumprod(1 - betas), params.get("v_posterior", 0.0)
    before = np.append(1.0, signal[:-1])
    variance = (1 - v) * betas * (1 - before) / (1 - signal) + v * betas
    tables = dict(
        betas=betas, alphas_cumprod=signal, alphas_cumprod_prev=before, sqrt_alphas_cumprod=signal**0.5,
        sqrt_one_minus_alphas_cumprod=(1 - signal) ** 0.5, log_one_minus_alphas_cumprod=np.log(1 - signal),
        sqrt_recip_alphas_cumprod=signal**-0.5, sqrt_recipm1_alphas_cumprod=(1 / signal - 1) ** 0.5,
        posterior_variance=variance,
        posterior_log_variance_clipped=np.log(np.maximum(variance, 1e-20)),
        posterior_mean_coef1=betas * before**0.5 / (1 - signal),
        posterior_mean_coef2=(1 - before) * (1 - betas) ** 0.5 / (1 - signal),
    )  # fmt: skip
    return {name: table.astype(np.float32) for name, table in tables.items()}


class LitEma(nn.Module):
    """Running averages under names without dots."""

    def __init__(self, model):
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.9999))
        self.register_buffer("num_updates", torch.tensor(0, dtype=torch.int))
        for name, parameter in model.named_parameters():
            self.register_buffer(name.replace(".", ""), parameter.detach().clone())


class LatentDiffusion(nn.Module):
    """params: of the YAML's model. Its state dict has the original's names and shapes."""

    def __init__(self, params: dict):
        super().__init__()
        self.params = params
        stage = params["cond_stage_config"]
        self.key = params.get("conditioning_key") or (
            "concat" if params.get("concat_mode", True) else "crossattn"
        )
        if stage == "__is_unconditional__":
            self.key = None
        self.model = nn.Module()
        self.model.diffusion_model = UNetModel(**params["unet_config"]["params"])
        if params.get("use_ema", True):
            self.model_ema = LitEma(self.model)
        for name, table in make_tables(params).items():
            self.register_buffer(name, torch.tensor(table))
        if params.get("learn_logvar"):
            self.logvar = nn.Parameter(torch.full([len(self.betas)], params.get("logvar_init", 0.0)))
        if params.get("scale_by_std"):
            self.register_buffer("scale_factor", torch.tensor(params.get("scale_factor", 1.0)))
        else:
            self.scale_factor = params.get("scale_factor", 1.0)
        first = params["first_stage_config"]
        pixels = last(first["target"]) == "IdentityFirstStage"
        self.first_stage_model = None if pixels else Autoencoder(**first["params"])
        if stage == "__is_first_stage__":
            self.cond_stage_model = self.first_stage_model
        elif isinstance(stage, dict) and last(stage["target"]) in CONDITIONERS:
            self.cond_stage_model = CONDITIONERS[last(stage["target"])](**stage.get("params", {}))

    def use_averages(self) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(getattr(self.model_ema, name.replace(".", "")))

    def encode(self, x):
        return x if self.first_stage_model is None else self.first_stage_model.encode(x)

    def decode(self, z):
        return z if self.first_stage_model is None else self.first_stage_model.decode(z)

    def condition(self, given: dict) -> dict:
        """What the UNet is called with beside x and t. given: by the names of ldm_jax's conditions, as tensors,
        NCHW."""
        learned = getattr(self, "cond_stage_model", None)
        arguments, key = {"concat": []}, self.key or ""
        if (
            self.params["cond_stage_config"] == "__is_first_stage__"
        ):  # the hole is black in [-1, 1], and 1 in the mask
            hole = given["masks"][:, None]
            latent = self.encode(torch.where(hole >= 0.5, -1.0, given["images"]))
            arguments["concat"] = [latent, 2 * F.interpolate(hole, latent.shape[-2:]) - 1]
        elif "segmentations" in given:
            classes = F.one_hot(given["segmentations"], learned.channel_mapper.in_channels)
            arguments["concat"] = [learned(classes.permute(0, 3, 1, 2).float())]
        elif "crossattn" in key or "hybrid" in key:
            name = (
                "class_labels"
                if isinstance(learned, ClassEmbedder)
                else "embeddings"
                if learned is None
                else "layouts"
            )
            arguments["context"] = given[name] if learned is None else learned(given[name])
        arguments["concat"] += [given[n] for n in ("concats", "low_res_images") if n in given]
        if "adm" in key:
            arguments["y"] = given["vectors"] if "vectors" in given else given["class_labels"]
        return arguments

    def predict(self, x, t, condition: dict):
        rest = {k: v for k, v in condition.items() if k != "concat"}
        return self.model.diffusion_model(torch.cat([x, *condition["concat"]], 1), t, **rest)

    def to_eps(self, x, t, condition):
        out = self.predict(x, t, condition)
        if self.params.get("parameterization", "eps") == "eps":
            return out
        signal, noise = (
            table[t][:, None, None, None]
            for table in (self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod)
        )
        return signal * out + noise * x

    def ddim(self, x, condition, steps: int):
        """Without noise; stride T // steps, from 1."""
        total = len(self.alphas_cumprod)
        visited = [t + 1 for t in range(0, total, total // steps)]
        signal = [float(self.alphas_cumprod[t]) for t in [0, *visited]]
        for i in reversed(range(len(visited))):
            eps = self.to_eps(x, torch.full([len(x)], visited[i]), condition)
            clean = (x - (1 - signal[i + 1]) ** 0.5 * eps) / signal[i + 1] ** 0.5
            x = signal[i] ** 0.5 * clean + (1 - signal[i]) ** 0.5 * eps
        return x
