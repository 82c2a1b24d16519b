r"""ReVersion: teach a text-to-image model a relation between things from about ten pictures of it, with captions such
as "a cat <R> a box"; the word's vector alone is trained and stored.

Run:     python train.py --config configs/reversion.py --config.base=MODEL --config.data.root=PHOTOS \
             --workdir runs/relation
         (a caption in PHOTOS/metadata.jsonl for each)
Draw:    python sample.py --checkpoint MODEL --adapter runs/relation --prompt "a dog <R> a basket"
Smoke:   python train.py --config configs/reversion.py:runlocal --workdir /tmp/relation
Source:  Huang et al. 2023 (arXiv:2303.13495), section 5; rate, steps, batch and weights as ziqihuangg/ReVersion.
Result:  not measured yet on a model of that size; the smoke test teaches the shipped shapes model for two steps.
"""

from ml_collections import ConfigDict

from configs import lora

TOKEN = "<R>"


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/reversion.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = lora.get_config(arg)
    c.personalization = dict(
        name="reversion", token=TOKEN, begins="and", steer=0.01, positives=4, temperature=0.07
    )
    c.timestep_density = dict(name="cosine", skew=0.5)
    c.optimizer.base_lr, c.optimizer.accumulate = 2e-3, 4  # 2.5e-4 for each picture of two times four
    if arg == "runlocal":
        c.data.templates = dict(texts=["a red circle {} a blue square"], word=TOKEN)
        c.optimizer.accumulate = 1
    else:
        c.batch_size, c.total_steps = 2, 12_000  # of four batches each
    return c
