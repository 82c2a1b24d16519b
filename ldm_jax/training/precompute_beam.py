"""The same folder of latents, written by an Apache Beam pipeline: for data sets that outgrow one machine.

    ldm-precompute-latents --config … --out … --beam '--runner=DirectRunner --direct_num_workers=4'

Its elements are the numbers of the shards that are missing, and what it does to each is precompute_latents.write_shard;
so a folder may be begun without Beam and finished with it, or the other way round. Every worker sees --out and the data
under the
same paths. Imported only when it is asked for: apache_beam is an extra (pip install ldm_jax[beam]).
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ldm_jax import paths
from ldm_jax.data import latents_builder
from ldm_jax.training import precompute as precompute_latents

_OPENING = threading.Lock()
_OPENED: dict[str, precompute_latents.Precomputation] = {}


class WriteShards(beam.DoFn):
    """Numbers of shards -> how many examples each of them had, once it is written.

    A worker's process opens the networks and the data once, whatever the number of its threads.
    """

    def __init__(self, config: dict, root: str, options: precompute_latents.PrecomputeOptions):
        self.config, self.root, self.options = config, root, options

    def setup(self) -> None:
        key = repr((self.config, self.root, self.options))
        with _OPENING:
            if key not in _OPENED:
                _OPENED[key] = precompute_latents.open_job(self.config, self.options)
        self.job = _OPENED[key]

    def process(self, shard: int):
        yield precompute_latents.write_shard(self.job, paths.of(self.root), shard)


def precompute(
    config: dict,
    root: str | Path,
    options: precompute_latents.PrecomputeOptions,
    pipeline_options: Sequence[str] = (),
) -> dict | None:
    """Writes all shards that are not there yet, and makes a data set of them.

    pipeline_options: as Beam takes them, '--runner=…'. Returns and raises: as precompute_latents.precompute.
    """
    root = paths.absolute(paths.of(root).expanduser())
    paths.check(root)
    job = precompute_latents.open_job(config, options)
    missing = latents_builder.begin(root, job.made)
    latents_builder.check_space(root, job.made, len(missing))
    if missing:
        with beam.Pipeline(options=PipelineOptions(list(pipeline_options))) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(missing)
                | "Spread" >> beam.Reshuffle()
                | "Write" >> beam.ParDo(WriteShards(config, str(root), options))
            )
    return precompute_latents.finish(job, root)
