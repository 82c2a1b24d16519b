"""Statistics files that record how they were made, and a check that two were made in the same way.

Decides what the recipe of a Frechet distance is: every choice between the stored data set and the mean that is known
to move the number. The FIDs that nobody could reproduce with the original differed in the preparation of the
reference set (CompVis/latent-diffusion issues 138, 213 and 253). It reads what guided-diffusion and clean-fid
publish, too; those files do not say how they were made, so that a comparison with them carries a note.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np

from ldm_jax import atomic
from ldm_jax.metrics.features import Collected, Extractor
from ldm_jax.metrics.images import Images
from ldm_jax.metrics.moments import Gaussian

FORMAT = "ldm_jax statistics 2"
UNKNOWN = "the reference file does not say how it was made (unknown recipe)"
# layer of ours -> what guided-diffusion's evaluator and clean-fid call its mean and covariance
_FOREIGN = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclasses.dataclass(frozen=True)
class FeatureRecipe:
    """How features came from a data set. extractor and its hash; resize: to the network's size; image_size: height x
    width that went into it; crop, flip, color: between file and pixels; rounding: how floats became uint8, 'files'
    where the images were uint8 already."""

    extractor: str
    extractor_hash: str
    resize: str
    image_size: str
    crop: str
    flip: bool
    color: str
    rounding: str


# Values that agree with any other: samples are not cropped, and the pictures of a data set were uint8 all along.
_NEUTRAL = {"crop": "none", "rounding": "files"}


@dataclasses.dataclass(frozen=True)
class Statistics:
    """gaussians: {layer: Gaussian}. num_images and fingerprint (hex digest of the data); None where a foreign file
    does not state them, like recipe."""

    gaussians: dict[str, Gaussian]
    recipe: FeatureRecipe | None
    num_images: int | None
    fingerprint: str | None


def describe(
    images: Images, extractor: Extractor, collected: Collected, *, flip: bool = False, rounding: str = "files"
) -> Statistics:
    """The statistics of what one pass over `images` collected. flip: whether mirror images were among them."""
    height, width = images[0].shape[:2]
    recipe = FeatureRecipe(
        extractor=extractor.name,
        extractor_hash=extractor.hash,
        resize=extractor.resize,
        image_size=f"{height} x {width}",
        crop=images.crop,
        flip=flip,
        color=images.color,
        rounding=rounding,
    )
    gaussians = {layer: moments.gaussian() for layer, moments in collected.moments.items()}
    return Statistics(gaussians, recipe, collected.count, images.fingerprint())


def write(path: str | Path, statistics: Statistics) -> None:
    """Writes an .npz: mean and covariance of each layer in float64, and `about`, a JSON text with everything else.

    Raises: ValueError for statistics without a recipe, or another suffix.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"statistics file {str(path)!r}, expected a name that ends in .npz")
    if statistics.recipe is None:
        raise ValueError(
            f"statistics for {path} have no recipe, expected one: they came from a file without it"
        )
    about = {
        "format": FORMAT,
        "recipe": dataclasses.asdict(statistics.recipe),
        "num_images": statistics.num_images,
        "fingerprint": statistics.fingerprint,
    }
    arrays = {"about": np.array(json.dumps(about))}
    for layer, gaussian in statistics.gaussians.items():
        arrays[f"{layer}/mean"] = np.asarray(gaussian.mean, np.float64)
        arrays[f"{layer}/covariance"] = np.asarray(gaussian.covariance, np.float64)
    with atomic.writing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def read(path: str | Path) -> Statistics:
    """A file of `write`, or a reference of guided-diffusion (mu, sigma, mu_s, sigma_s) or clean-fid (mu, sigma), which
    come without a recipe.

    Raises: ValueError for any other file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"statistics file {str(path)!r} is not there")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"statistics file {path} cannot be read: it is no .npz archive")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _ours(arrays) if "about" in arrays else _foreign(arrays, path)
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"statistics file {path} cannot be read: {error}") from error


def _ours(arrays: np.lib.npyio.NpzFile) -> Statistics:
    about = json.loads(str(arrays["about"]))
    if about.get("format") != FORMAT:
        raise ValueError(f"its format is {about.get('format')!r}, expected {FORMAT!r}")
    count = about["num_images"]
    layers = [name.removesuffix("/mean") for name in arrays if name.endswith("/mean")]
    gaussians = {
        layer: Gaussian(arrays[f"{layer}/mean"], arrays[f"{layer}/covariance"], count) for layer in layers
    }
    return Statistics(gaussians, FeatureRecipe(**about["recipe"]), count, about["fingerprint"])


def _foreign(arrays: np.lib.npyio.NpzFile, path: Path) -> Statistics:
    gaussians = {}
    for layer, (mean, covariance) in _FOREIGN.items():
        if mean in arrays and covariance in arrays:
            gaussians[layer] = Gaussian(
                np.asarray(arrays[mean], np.float64), np.asarray(arrays[covariance], np.float64), None
            )
    if "pool" not in gaussians:
        raise ValueError(f"it has {', '.join(arrays) or 'nothing'}, expected ours, or mu and sigma")
    return Statistics(gaussians, None, None, None)


def differences(a: FeatureRecipe, b: FeatureRecipe) -> list[str]:
    """What differs between two recipes and must not, one text each."""
    found = []
    for field in dataclasses.fields(FeatureRecipe):
        values = getattr(a, field.name), getattr(b, field.name)
        if values[0] != values[1] and _NEUTRAL.get(field.name) not in values:
            found.append(f"{field.name} ({values[0]} and {values[1]})")
    return found


def check_comparable(generated: Statistics, reference: Statistics) -> str:
    """A note to print beside a comparison of the two; '' if both record how they were made, and agree.

    A set that was not cropped, or not rounded, may be compared with one that was: so samples are with a data set.
    Raises: ValueError that lists every difference.
    """
    if generated.recipe is None or reference.recipe is None:
        return UNKNOWN
    wrong = differences(generated.recipe, reference.recipe)
    if wrong:
        raise ValueError(
            f"statistics of different recipes cannot be compared: they differ in {'; '.join(wrong)}"
        )
    return ""
