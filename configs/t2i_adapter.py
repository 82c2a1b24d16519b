r"""T2I-Adapter: a small network that sees a picture once, here the outlines of the one to be drawn, learns to tell a
text-to-image model about it; the adapter alone is trained and stored.

Run:     python train.py --config configs/t2i_adapter.py --config.base=MODEL --config.data.root=PICTURES \
             --workdir runs/sketches
         :shapes teaches the shipped shapes model.
Draw:    python sample.py --checkpoint MODEL --control runs/sketches:outline.png --prompt "…"
Smoke:   python train.py --config configs/t2i_adapter.py:runlocal --workdir /tmp/t2i_adapter
Source:  Mou et al. 2023 (arXiv:2302.08453): 1e-5 with a batch of 8, as TencentARC/T2I-Adapter; the widths of Stable
         Diffusion 1. Its timesteps are cubic, here uniform, and half of the captions are emptied as for ControlNet.
Result:  not measured yet; the smoke test is two steps on the shipped shapes model.
"""

from ml_collections import ConfigDict

from configs import controlnet


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "shapes", "runlocal"):
        raise ValueError(
            f"configs/t2i_adapter.py takes 'shapes', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = controlnet.following(arg)
    c.personalization = dict(
        name="t2i_adapter", kind="full", widths=[320, 640, 1280, 1280], num_res_blocks=2, factor=8, channels=3
    )
    c.data.derive = dict(adapter_hint=c.data.derive.hint)
    if arg:
        c.personalization.update(widths=[64, 128, 192], factor=4)  # those of the shapes model
    return c
