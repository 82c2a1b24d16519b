"""Trains the prior of an unCLIP model: from CLIP's embedding of a caption to that of a picture that it describes.

    python -m ldm_jax.commands.train_prior PHOTOS --clip CLIP --out prior
    python sample.py --checkpoint models/unclip --prompt "a lighthouse" --clip CLIP --prior prior

PHOTOS: a folder of pictures with captions, as data.root of the source `folder`. Source: Ramesh et al. 2022
(arXiv:2204.06125), section 2.2.
"""

import argparse
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldm_jax import cli
from ldm_jax.commands.neighbours import FolderImages
from ldm_jax.data import folder
from ldm_jax.diffusion.process import q_sample
from ldm_jax.evaluation import networks
from ldm_jax.inference import embedding_prior
from ldm_jax.inference.embedding_prior import Prior
from ldm_jax.metrics import features
from ldm_jax.types import KEY_IMPL


def train(
    text: np.ndarray,
    images: np.ndarray,
    *,
    num_steps: int = 5000,
    batch_size: int = 256,
    learning_rate: float = 3e-4,
    dropout: float = 0.1,
    decay: float = 0.999,
    hidden: int = 512,
    num_layers: int = 4,
    seed: int = 0,
) -> Prior:
    """The prior of pairs text, images [N, D] float32. dropout: how often a caption is left out, for guidance. decay: of
    the running average, which is what is kept."""
    options = dict(width=text.shape[1], hidden=hidden, num_layers=num_layers)
    prior = Prior(options, {})
    schedule = prior.schedule
    params = embedding_prior.fresh(prior.network, seed)
    for name, values in (("text", text), ("image", images)):
        params[f"{name}_mean"] = values.mean(0)
        params[f"{name}_std"] = np.maximum(values.std(0), 1e-6)
    pairs = [(v - params[f"{n}_mean"]) / params[f"{n}_std"] for n, v in (("text", text), ("image", images))]
    pairs = [jnp.asarray(v, jnp.float32) for v in pairs]
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    @jax.jit
    def step(network, average, opt_state, number):
        key = jax.random.fold_in(jax.random.key(seed, impl=KEY_IMPL), number)
        drawn, t_key, noise_key, drop_key = jax.random.split(key, 4)
        rows = jax.random.randint(drawn, (batch_size,), 0, len(text))
        caption, x_start = (values[rows] for values in pairs)
        t = jax.random.randint(t_key, (batch_size,), 0, schedule.num_timesteps)
        x_t = q_sample(schedule, x_start, t, jax.random.normal(noise_key, x_start.shape))
        kept = jax.random.uniform(drop_key, (batch_size, 1)) >= dropout

        def loss(network):
            predicted = prior.network.apply({"params": network}, x_t, t, caption * kept)
            return jnp.square(predicted - x_start).mean()

        value, gradient = jax.value_and_grad(loss)(network)
        updates, opt_state = tx.update(gradient, opt_state)
        network = optax.apply_updates(network, updates)
        rate = jnp.minimum(decay, (1.0 + number) / (10.0 + number))
        average = jax.tree.map(lambda a, b: rate * a + (1 - rate) * b, average, network)
        return network, average, opt_state, value

    network = average = params["network"]
    opt_state = tx.init(network)
    for number in range(num_steps):
        network, average, opt_state, value = step(network, average, opt_state, number)
        if (number + 1) % 500 == 0:
            print(f"step {number + 1}/{num_steps}  loss {float(value):.4f}", flush=True)
    prior.params = jax.tree.map(np.asarray, params | {"network": average})
    return prior


def pairs_of(
    source: folder.FolderSource, clip: networks.Clip, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(captions', pictures') embeddings [N, D] of a folder whose pictures have captions. Raises: ValueError if none
    has."""
    captions = [next(iter(source.said(i)), "") for i in range(len(source))]
    if not any(captions):
        raise ValueError(f"{source!r} has no captions, expected x.txt beside x.png or a file of all captions")
    found = features.extract(
        FolderImages(source), clip.extractor, layers=("embedding",), batch_size=batch_size
    )
    images = np.concatenate([values["embedding"] for _, values in found])
    said = np.asarray([bool(caption) for caption in captions])
    return clip.embed([caption for caption in captions if caption]), images[said]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.train_prior",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("images", help="a folder of pictures with captions, as data.root of the source `folder`")
    add("--clip", help="a folder of transformers' CLIPModel; by default one in the cache directory")
    add("--out", type=cli.on_disk, default="prior", help="the folder to write (default %(default)s)")
    add("--steps", type=int, default=5000, help="of training (default %(default)s)")
    add("--batch_size", type=int, default=256, help="pairs in a step (default %(default)s)")
    add("--hidden", type=int, default=512, help="width of the network (default %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    for name in ("steps", "batch_size", "hidden"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1")
    text, images = pairs_of(folder.source("train", root=args.images), networks.clip(args.clip), 32)
    prior = train(text, images, num_steps=args.steps, batch_size=args.batch_size, hidden=args.hidden)
    prior.save(args.out)
    print(f"{args.out}: a prior of {len(text)} pairs")


if __name__ == "__main__":
    cli.console(main)
