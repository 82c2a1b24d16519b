"""torch-fidelity as an oracle, the parts of it that need no torchvision: `load('metric_kid')`, `inception(state)`.

Its package imports torchvision and every extractor at once; here its files are imported one by one under the package's
name, and what the metrics take from its `utils` is left out, because only their arithmetic is compared.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
from unittest import mock

import pytest

_PLUMBING = (
    "create_feature_extractor",
    "extract_featuresdict_from_input_id_cached",
    "resolve_feature_extractor",
    "resolve_feature_layer_for_metric",
    "get_cacheable_input_name",
    "cache_lookup_one_recompute_on_miss",
)


def load(name: str) -> types.ModuleType:
    """The module torch_fidelity.<name>; skips the test where the package is not installed."""
    pytest.importorskip("torch")
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    plumbing = types.ModuleType("torch_fidelity.utils")
    for part in _PLUMBING:
        setattr(plumbing, part, None)
    with mock.patch.dict(sys.modules, {"torch_fidelity": package, "torch_fidelity.utils": plumbing}):
        return importlib.import_module(f"torch_fidelity.{name}")


@contextlib.contextmanager
def _state_given(state):
    import torch

    with mock.patch.object(torch, "load", lambda *args, **kwargs: state):
        yield


def inception(layers: list[str], state: dict | None = None):
    """Its InceptionV3 with random weights, or those of `state` (name -> tensor)."""
    import torch

    module = load("feature_extractor_inceptionv3")
    # the extractor loads a file as it is built: what would be read is given, and with no state nothing is loaded
    ignore = mock.patch.object(torch.nn.Module, "load_state_dict", lambda self, state, **kwargs: None)
    with _state_given(state), contextlib.nullcontext() if state else ignore:
        return module.FeatureExtractorInceptionV3("inception", layers, feature_extractor_weights_path="given")
