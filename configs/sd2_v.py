r"""Stable Diffusion 2 and 2.1: text to image at 768 x 768, predicting v.

Run:     python train.py --config configs/sd2_v.py --config.data.root=PHOTOS \
         --config.conditioning.tokenizer.vocab_file=FOLDER \
         --workdir runs/sd2_v
Smoke:   python train.py --config configs/sd2_v.py:runlocal --workdir /tmp/sd2_v
Source:  Stability-AI/stablediffusion@cf1d67a configs/stable-diffusion/v2-inference-v.yaml and its model card (140,000
         steps at 768 x 768);
         865,910,724 parameters beside OpenCLIP ViT-H/14's. FOLDER: CLIP's vocab.json and merges.txt, or its
         tokenizer.json. The text encoder is not trained, so name a converted
         checkpoint that has its weights with --config.init_from.
Result:  curves of FID and CLIP score over scales 1.5 to 8 on 10,000 captions of COCO, 50 DDIM steps; no single figure.
"""

from ml_collections import ConfigDict

from configs import sd2


def get_config(arg: str = "") -> ConfigDict:
    return sd2.make("sd2_v", arg, image_size=768, prediction_type="v", total_steps=140_000)
