"""The data base of a retrieval-augmented model, by both towers of CLIP:

    python -m ldm_jax.commands.neighbours build PHOTOS --clip CLIP --out database
    python sample.py --checkpoint models/rdm --prompt "a lighthouse" --clip CLIP --neighbours database

`build` writes CLIP's embedding of every picture of a folder, in the order of their paths, as a folder of .npz files
that data/neighbours.py searches, and the source `neighbours` trains with. Run the same command again to go on where it
stopped. `python -m ldm_jax.data.neighbours` is the same command.
Source: Blattmann et al. 2022 (arXiv:2204.11824); CompVis/latent-diffusion@a506df5 scripts/knn2img.py.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ldm_jax import atomic, cli, text_files
from ldm_jax.data import folder
from ldm_jax.evaluation import networks
from ldm_jax.metrics import features

RECORD = "database.json"  # which pictures and which CLIP the embeddings of a folder are of


class FolderImages:
    """The pictures of a folder as metrics/features.py reads them (metrics.images.Images)."""

    crop, color = "none", "as a photo program shows them"

    def __init__(self, source: folder.FolderSource):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.source[index]["image"]

    def name(self, index: int) -> str:
        return str(self.source.path(index))

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def build(
    images: FolderImages, clip: networks.Clip, out: Path, batch_size: int = 32, batches_per_file: int = 64
) -> int:
    """Writes 00000.npz, 00001.npz, … into `out`: `embedding` [n, D] float32, not of unit length, `img_id` [n], each
    picture's place among all, and `path` [n]. Files that are there are kept. Returns: how many pictures there are.

    Raises: ValueError for a folder of embeddings of other pictures, by another CLIP or in files of another size.
    """
    size = batch_size * batches_per_file
    made_of = dict(pictures=images.fingerprint(), clip=clip.extractor.hash, per_file=size)
    record = out / RECORD
    if record.exists() and text_files.read_object(record, "record of a data base") != made_of:
        raise ValueError(
            f"{out} holds embeddings of other pictures, by another CLIP or with another --batch_size, expected "
            "a new folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    atomic.write_json(record, made_of)
    done = 0
    while (out / f"{done:05}.npz").exists():
        done += 1
    report = cli.progress("embedded", len(images), done * size)
    rows: list[np.ndarray] = []
    start = done * size
    steps = features.extract(
        images, clip.extractor, layers=("embedding",), batch_size=batch_size, start=start, devices=None
    )
    for indices, found in steps if start < len(images) else ():
        rows.append(found["embedding"])
        report(int(indices[-1]) + 1)
        last = indices[-1] + 1 == len(images)
        while sum(map(len, rows)) >= size or (last and sum(map(len, rows))):
            embedded = np.concatenate(rows)
            part, rows = embedded[:size], [embedded[size:]]
            ids = np.arange(start, start + len(part))
            paths = np.asarray([images.name(i) for i in ids])
            with atomic.writing(out / f"{start // size:05}.npz") as partial, open(partial, "wb") as file:
                np.savez(file, embedding=part, img_id=ids, path=paths)
            start += len(part)
    return len(images)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldm_jax.commands.neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("action", choices=("build",), help="what to do")
    add("images", help="a folder of pictures, as data.root of the source `folder`")
    add("--clip", help="a folder of transformers' CLIPModel; by default one in the cache directory")
    add(
        "--out",
        type=cli.on_disk,
        default="database",
        help="the folder to write; the same one again goes on in it",
    )
    add("--split", default="train", help="which part of the folder's pictures")
    add("--batch_size", type=int, default=32, help="pictures on each device")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size is {args.batch_size}, expected at least 1")
    images = FolderImages(folder.source(args.split, root=args.images))
    number = build(images, networks.clip(args.clip), Path(args.out), args.batch_size)
    print(f"{args.out}: embeddings of {number} pictures", file=sys.stdout)


def console() -> None:
    cli.console(main)


if __name__ == "__main__":
    console()
