r"""Retrieval-augmented text to image at 768 x 768.

Run:     python train.py --config configs/rdm_768.py --config.data.root=PHOTOS --config.data.embeddings=OWN \
         --config.data.database=DATABASE \
         --workdir runs/rdm_768
Smoke:   python train.py --config configs/rdm_768.py:runlocal --workdir /tmp/rdm_768
Source:  CompVis/latent-diffusion@a506df5 configs/retrieval-augmented-diffusion/768x768.yaml; Blattmann et al. 2022
         (arXiv:2204.11824); 1,335,480,400 parameters. Batch size, steps and the number of neighbors in training are
         not published; its script looks up 10.
         OWN: CLIP ViT-L/14's embeddings of the pictures, one row for each in the order of their paths; DATABASE: those
         to look up neighbors in, or leave it out to take OWN (data/neighbours.py says what such files are).
Result:  no figure was published for this model. Its script samples with 50 DDIM steps at scale 5.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "") -> ConfigDict:
    return base.diffusion(
        "rdm_768",
        arg,
        image_size=768,
        first_stage="kl_f16",
        scale_factor=0.22765929,
        model=dict(
            in_channels=16,
            out_channels=16,
            channels=448,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=2,
            attention_levels=[0, 1, 2],
            head_dim=32,
            transformer_depth=1,
            context_dim=768,
            remat="full",
        ),
        conditioning=dict(name="retrieval", width=768),
        condition_dropout=0.1,
        beta=(0.0015, 0.015),
        optimizer=dict(base_lr=1e-4, scale_lr=False),
        batch_size=64,
        total_steps=1_000_000,
        data=base.folder("imagenet") | dict(name="neighbours", embeddings="", database="", k=10),
        sampling=dict(num_steps=50, guidance_scale=5.0),
    )
