"""Training, sampling and measuring import no tensorflow, which `pip install ldm_jax` does not bring."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCKED = """
import importlib.machinery, pathlib, sys, traceback

class Blocked:  # tensorflow can be found, as where it is installed, but not imported; keeps who tried
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        tried.append("".join(traceback.format_stack(limit=12)))
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)

    def exec_module(self, module):
        pass

tried = []
sys.meta_path.insert(0, Blocked())
try:
    import tensorflow
except ImportError:
    assert len(tried) == 1
tried.clear()

import numpy as np
root = pathlib.Path(sys.argv[1])
"""
DATA = """
from ldm_jax.commands import evaluate, sample, train
from ldm_jax.data import latents, shapes_builder, tfds
from ldm_jax.training import events
from tests.data import stored_latents

writer = events.EventWriter(root / "run")
writer.write_scalars(1, dict(loss=1.0))
writer.write_images(1, dict(samples=np.zeros((8, 8, 3), np.uint8)))
writer.close()
evaluate.main(["oracle", "--num_samples", "2"])

# tensorflow_datasets: a data set is written as array_record and read, and so is a folder of latents.
tiny = shapes_builder.ShapesConfig(name="tiny", train=2, test=1, unseen=1)
builder = shapes_builder.Shapes(config=tiny, data_dir=str(root / "tfds"), file_format="array_record")
builder.download_and_prepare()
tfds._builder = lambda name, data_dir: builder
options = dict(dataset="shapes/tiny", caption_key="caption", label_key="class_label")
assert tfds.source("train", **options)[0]["image"].shape == (64, 64, 3)
written = stored_latents.write(root / "latents", stored_latents.MADE)
np.testing.assert_array_equal(latents.source("train", root=root / "latents")[1]["moments"], written[1]["moments"])
"""
RUNS = """
from PIL import Image
from ldm_jax.commands import evaluate, sample, train
from tests import tiny_diffusion, tiny_first_stage

once = dict(total_steps=1, checkpoint_every=1, preview_every=1)

# Training on both sources, the first on the shapes world, the second on a folder with captions.
train.train(tiny_first_stage.get_config().to_dict() | once, root / "first")
photos = root / "photos"
photos.mkdir()
for i in range(2):
    Image.fromarray(np.full((64, 64, 3), 100 * i, np.uint8)).save(photos / f"{i}.png")
    (photos / f"{i}.txt").write_text("a red circle")
config = tiny_diffusion.get_config().to_dict() | once
config["data"] = dict(name="folder", split="train", root=str(photos))
train.train(config, root / "second")
assert list((root / "second").glob("events.out.tfevents.*"))

# Sampling and measuring.
sample.main(["--checkpoint", str(root / "second"), "--seeds", "0", "--out", str(root / "drawn")])
first = ["--first_stage", str(root / "first"), "--images", str(photos), "--metrics", "psnr"]
evaluate.main([*first, "--out", str(root / "measured"), "--allow_few"])
"""
END = """
assert not tried and "tensorflow" not in sys.modules, tried
"""


@pytest.mark.parametrize("code", [DATA, pytest.param(RUNS, marks=pytest.mark.slow)], ids=["data", "runs"])
def test_nothing_imports_tensorflow(code, tmp_path):
    """data: commands, TensorBoard, TFDS and measuring. runs: both stages trained, on the shapes world and a folder,
    drawn from and measured."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code + END, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
