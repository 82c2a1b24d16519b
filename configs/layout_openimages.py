r"""Layout to image at 256 x 256, on OpenImages: LDM-4.

Run:     python train.py --config configs/layout_openimages.py --config.data.root=PHOTOS \
         --workdir runs/layout_openimages
         where PHOTOS has a layouts.jsonl (ldm_jax/data/layouts.py). Or from TFDS, whose 601 classes are too many for
         8192 tokens: --config.data.dataset=open_images_v4 --config.data.objects_key=bobjects
         --config.data.classes=CLASSES.txt --config.data.index=openimages_train.npz
Smoke:   python train.py --config configs/layout_openimages.py:runlocal --workdir /tmp/layout_openimages
Source:  CompVis/latent-diffusion@a506df5 models/ldm/layout2img-openimages256/config.yaml, Rombach et al. 2022, table
         15; 246,277,379 parameters, and 54,656,000 of the transformer over the layout (58,858,496 there, with a
         projection that is never used). Squares of 256 pixels and more of pictures with 2 to 30 objects, mirrored half
         of the time.
Result:  FID 32.02, IS 15.92 on OpenImages, 200 DDIM steps, eta 0. Published, not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def make(name: str, arg: str, **changes) -> ConfigDict:
    """The config of this model, or of one that differs from it by `changes`, which are arguments of base.diffusion."""
    own = dict(
        image_size=256,
        first_stage="vq_f4",
        model=dict(
            in_channels=3,
            out_channels=3,
            channels=128,
            channel_mult=[1, 2, 3, 4],
            num_res_blocks=2,
            attention_levels=[1, 2, 3],
            head_dim=32,
            transformer_depth=3,
            context_dim=512,
        ),
        conditioning=dict(TOKENS, num_classes=352),
        beta=(0.0015, 0.0205),
        loss_type="l1",
        optimizer=dict(base_lr=2e-6),
        batch_size=24,
        total_steps=4_400_000,
        data=dict(DATA),
        sampling=dict(num_steps=200, eta=0.0),
    )
    return base.diffusion(name, arg, **(own | changes))


# The transformer of table 17.
TOKENS = dict(name="layout", vocab_size=8192, width=512, num_layers=16, max_length=92)
DATA = dict(
    name="layouts",
    split="train",
    root="",
    dataset="",
    data_dir="",
    objects_key="objects",
    index="",
    classes="",
    recipe="plain",
)


def get_config(arg: str = "") -> ConfigDict:
    return make("layout_openimages", arg)
