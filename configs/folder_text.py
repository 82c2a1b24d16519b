r"""Text to image on pictures of your own with captions, on the autoencoder of folder_kl_f4.py.

Run:     python train.py --config configs/folder_text.py --config.data.root=PHOTOS --workdir runs/folder_text
Draw:    python sample.py --checkpoint runs/folder_text --prompt "…" --seeds 0-7
Small:   the same with --config configs/folder_text.py:small, 64 x 64 pixels, which two cores can train
Smoke:   the same with --config configs/folder_text.py:runlocal, two steps
Data:    docs/data.md: captions beside the pictures or in metadata, Parquet shards, tars … (--config.data.name). The
         vocabulary is trained on the captions when the run begins, and kept in the workdir: a token for each piece of
         a word (Sennrich et al. 2016), or with --config.conditioning.tokenizer.model=words for each word.
         --config.text_from=MODEL takes the text encoder of a trained model in the place of one of its own, such as
         Stable Diffusion's, and leaves it as it is.
Source:  Rombach et al. 2022 (arXiv:2112.10752), section 4.3 and table 15, a transformer trained with the UNet, in the
         width of configs/folder_ldm4.py. 10 % of the captions are dropped, for guidance.
Result:  not measured yet; the smoke test trains two steps on the shapes world.
"""

from ml_collections import ConfigDict, config_dict

from configs import folder_ldm4


def get_config(arg: str = "") -> ConfigDict:
    if arg not in ("", "small", "runlocal"):
        raise ValueError(
            f"configs/folder_text.py takes 'small', 'runlocal' or nothing after the colon, got {arg!r}"
        )
    c = folder_ldm4.get_config(arg)
    c.data.update(holdout=0.01, caption_key=config_dict.placeholder(str), flip=0.0)
    c.conditioning = dict(
        name="text",
        vocab_size=16384,
        width=512,
        num_layers=8,
        num_heads=8,
        max_length=64,
        tokenizer=dict(name="trained", model="bpe", max_length=64),
    )
    c.condition_dropout = 0.1
    c.model.update(context_dim=512, transformer_depth=1)
    c.text_from = config_dict.placeholder(str)
    c.holdout_every = 5000
    c.sampling = dict(num_steps=50, guidance_scale=5.0)
    if arg:
        c.conditioning.update(vocab_size=2048, width=128, num_layers=2, num_heads=4, max_length=32)
        c.conditioning.tokenizer.max_length = 32
        c.model.update(context_dim=128)
        c.holdout_every = 500
    if arg == "runlocal":
        c.data = dict(name="shapes", split="train", num_scenes=16, annotations=False, recipe="none")
        c.holdout_every = 2
        c.sampling.num_steps = 2
    return c
