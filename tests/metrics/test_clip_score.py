import numpy as np
import pytest
from PIL import Image

from ldm_jax.metrics import clip_score
from ldm_jax.metrics.clip_score import clip_scores, prepare


def test_angles_with_known_cosines():
    image = np.array([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]], np.float32)
    text = np.array([[3.0, 0.0], [0.0, 5.0], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(clip_scores(image, text), [100.0, 100.0 / np.sqrt(2.0), 0.0], rtol=1e-6)


def test_shapes_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match=r"image embeddings \(3, 4\) and text embeddings \(2, 4\)"):
        clip_scores(np.ones((3, 4)), np.ones((2, 4)))


@pytest.mark.parametrize("shape", [(40, 24, 3), (24, 40, 3), (12, 18, 3)])
def test_pixels_reach_the_tower_as_clips_own_do(shape):
    transformers = pytest.importorskip("transformers")
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    except ImportError:
        Processor = transformers.CLIPImageProcessor
    theirs = Processor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    expected = np.asarray(theirs(Image.fromarray(image), return_tensors="np")["pixel_values"])[0].transpose(
        1, 2, 0
    )
    np.testing.assert_allclose(prepare(image, 16), expected, atol=1e-5)


def test_gray_is_what_the_normalization_says():
    found = prepare(np.full((8, 8, 3), 255, np.uint8), 4)
    np.testing.assert_allclose(found[0, 0], (1 - clip_score.MEAN) / clip_score.STD, rtol=1e-6)
