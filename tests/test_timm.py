"""Our networks equal timm's, with weights that come in under timm's names."""

import pytest
import torch

from supernet.model import build
from supernet.official import named_arch
from supernet.weights.files import load_weights
from tests import timm_reference
from tests.seeded import seeded_picture, seeded_tensor

pytestmark = [
    pytest.mark.skipif(not timm_reference.is_installed(), reason="pip install --no-deps timm"),
    pytest.mark.filterwarnings("ignore"),  # of timm's own imports
]


LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("b3", "l2", "l3")]


@pytest.mark.parametrize("name", ["b0", "b1", "b2", "l1", *LARGE])
def test_outputs_are_equal(name, tmp_path):
    """At 96 px, where we take the quadratic path and timm, as always, the linear one.

    The large ones are slow: they are the smaller ones of their family, wider and deeper.
    """
    theirs = timm_reference.create(name).eval()
    for module in theirs.modules():
        if type(module).__name__ == "LiteMLA":
            module.eps = 1e-15  # the official code's; timm has 1e-5
    with torch.no_grad():
        for key, tensor in theirs.state_dict().items():
            tensor.copy_(seeded_tensor(key, tensor.shape))
    torch.save(theirs.state_dict(), tmp_path / "timm.pt")
    ours = build(named_arch(name)).eval()
    load_weights(ours, tmp_path / "timm.pt")
    sizes = [(96, 96)] if name == "l3" else [(96, 96), (160, 224)]
    for size in sizes:
        picture = seeded_picture(*size).float()
        with torch.no_grad():
            found, expected = ours(picture), theirs(picture)
        assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
