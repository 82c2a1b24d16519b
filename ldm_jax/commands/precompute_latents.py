"""Stores what the first stage of a config makes of its data, so that training need not encode them again:

    ldm-precompute-latents --config shapes_text --out latents/shapes
    ldm-train --config shapes_text --latents latents/shapes --workdir runs/text

Run the same command again to go on where it stopped. On several hosts that see one --out, run it on each; --shard i/n
says which of them this is, where JAX does not know. What lies in the folder: data/latents.py. Its pictures are cut as
in training,
each in one way for good, and not mirrored: --flip stores both. An Apache Beam pipeline instead:
training/precompute_beam.py.
"""

import argparse
import shlex
from collections.abc import Sequence

import jax

from ldm_jax import cli
from ldm_jax.commands import config_flag
from ldm_jax.data import latents_builder
from ldm_jax.data.latents import COMMAND
from ldm_jax.training.precompute import PrecomputeOptions, precompute


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=__doc__,
        epilog=config_flag.epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, default = parser.add_argument, PrecomputeOptions()
    add("--out", required=True, help="the folder to write; the same one again goes on in it")
    add("--dtype", default=default.dtype, help=f"of what is stored: {' or '.join(latents_builder.DTYPES)}")
    add("--flip", action="store_true", help="store the mirror images' moments too; training takes either")
    add("--text", action="store_true", help="store the outputs of the text encoder, which is not trained")
    add("--fields", help="fields of the examples to keep, a,b,c; by default what the conditioning needs")
    add("--file_format", default=default.file_format, help=" or ".join(latents_builder.FILE_FORMATS))
    add("--examples_per_shard", type=int, default=default.examples_per_shard, help="what is lost by a stop")
    add("--batch_size", type=int, default=default.batch_size, help="of each device")
    add("--num_threads", type=int, default=default.num_threads, help="that read and cut pictures")
    add("--shard", help="i/n: this is host i of n; by default what JAX says")
    add("--beam", metavar="OPTIONS", help="write with Apache Beam, such as '--runner=DataflowRunner …'")
    return parser


def host_of(shard: str | None) -> tuple[int, int]:
    """(index, count) of 'i/n', or of this process among JAX's. Raises: ValueError for something else."""
    if shard is None:
        return jax.process_index(), jax.process_count()
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--shard is {shard!r}, expected i/n, such as 0/4")
    return int(index), int(count)


def main(argv: Sequence[str] | None = None) -> None:
    args, rest = make_parser().parse_known_args(argv)
    fields = None if args.fields is None else tuple(filter(None, args.fields.split(",")))
    given = {name: getattr(args, name) for name in PrecomputeOptions._fields}
    config, options = config_flag.read_config(rest), PrecomputeOptions(**given | {"fields": fields})
    if args.beam is not None:
        from ldm_jax.training import precompute_beam

        statistics = precompute_beam.precompute(config, args.out, options, shlex.split(args.beam))
    else:
        statistics = precompute(config, args.out, options, host_of(args.shard))
    if statistics is not None:
        print(f"{args.out}: scale factor {statistics['scale_factor']:.5f}")


def console() -> None:
    """The console command `ldm-precompute-latents`."""
    cli.console(main)


if __name__ == "__main__":
    console()
