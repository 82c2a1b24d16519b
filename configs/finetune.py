r"""Fine-tune a whole text-to-image model, such as Stable Diffusion, on pictures of your own with captions.

Run:     python train.py --config configs/finetune.py --config.base=v1-5.safetensors --config.data.root=PHOTOS \
             --workdir runs/finetune
         The base is any checkpoint that samples: a single file, a diffusers folder, a bundle, a workdir. A single file
         has no vocabulary with it: CLIP's vocab.json and merges.txt lie beside it, or are named by
         --config.base_tokenizer=FOLDER.
Draw:    python sample.py --checkpoint runs/finetune --prompt "…"
Smoke:   python train.py --config configs/finetune.py:runlocal --workdir /tmp/finetune
Source:  Constant rate 1e-5, batches of 32 by accumulation, averages of weights, the text encoder left as it is, 10 % of
         the captions dropped: as diffusers' train_text_to_image.py with --use_ema; pictures of nine shapes as Podell et
         al. 2023 (arXiv:2307.01952), section 2.3. Computes in bfloat16; parameters and averages are float32.
Result:  not measured: no published weights were at hand. The smoke test goes on with the shipped shapes model.
"""

from ml_collections import ConfigDict, config_dict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "runlocal"):
        raise ValueError(f"configs/finetune.py takes 'runlocal' or nothing after the colon, got {arg!r}")
    c = ConfigDict()
    base.spread(c)
    c.task = "diffusion"
    c.base = config_dict.placeholder(str)  # its model, schedule and first stage are taken
    c.base_tokenizer = config_dict.placeholder(str)
    c.seed = 0
    c.image_size = config_dict.placeholder(int)  # None is the base's
    c.dtype = "bfloat16"
    c.data = dict(
        name="folder",
        split="train",
        root="",
        recipe="plain",
        aspect_buckets=9,
        holdout=0.01,
        caption_key=config_dict.placeholder(str),
    )
    c.condition_dropout = 0.1
    c.freeze = ["conditioner"]
    c.loss = dict(loss_type="l2")
    c.optimizer = dict(
        name="adamw",
        base_lr=1e-5,
        scale_lr=False,
        clip_norm=1.0,
        accumulate=4,
        schedule=dict(name="constant", warm_up_steps=500),
    )
    c.ema_decay = 0.9999
    c.batch_size, c.total_steps = 8, 60_000
    c.log_every, c.checkpoint_every, c.preview_every, c.keep = 50, 1000, 1000, 2
    c.holdout_every = 1000
    if arg == "runlocal":
        c.base, c.dtype = "shapes", "float32"
        c.data = dict(name="shapes", split="train", num_scenes=8, annotations=False)
        c.optimizer.accumulate, c.holdout_every = 1, 2
        c.total_steps, c.batch_size, c.log_every, c.checkpoint_every, c.preview_every = 2, 2, 1, 2, 2
    return c
