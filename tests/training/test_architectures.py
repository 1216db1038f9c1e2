"""Networks of torchvision and our own transformer: what K-FAC lists is seen at work, and training goes on.

How much of each is preconditioned is told by `benchmarks/training.py`, and tests/benchmarks/test_training.py checks it.
"""

from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.models import build_model
from pipeline.models.imported import import_library
from pipeline.training import KFAC, KFACSettings

EVERY = KFACSettings(factor_interval=1, inverse_interval=1, sample_fraction=1.0)


SMALL = {
    "attention by a function of torch": lambda models: models.VisionTransformer(
        32, 8, 2, 2, 32, 64, num_classes=5
    ),
    "attention by a function of its own": lambda models: models.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 2], [2, 2], num_classes=5
    ),
    "convolutions in groups, and a normalization of its own": lambda models: models.ConvNeXt(
        [models.convnext.CNBlockConfig(16, 32, 1), models.convnext.CNBlockConfig(32, None, 1)], num_classes=5
    ),
}


@pytest.mark.skipif(
    find_spec("torchvision") is None, reason="torchvision is not installed: pip install 'torchvision==0.28.*'"
)
@pytest.mark.parametrize("build", SMALL.values(), ids=SMALL)
@pytest.mark.filterwarnings("ignore:.*torch.meshgrid")
def test_every_layer_that_is_listed_has_factors_after_two_steps(build):
    torch.manual_seed(0)
    model = build(import_library("torchvision.models"))
    kfac = KFAC(model, EVERY)
    images = torch.randn(3, 3, 32, 32)
    for _ in range(2):
        model.zero_grad()
        cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()
        kfac.step(0.1)
    layers = {name.split("/", 2)[2] for name in kfac.state_dict()["tensors"]}
    assert layers == set(kfac.preconditioned)
    assert kfac.terms is not None


def test_our_vision_transformer_trains_with_every_parameter_preconditioned():
    generator = torch.Generator().manual_seed(0)
    options = {"patch": 3, "width": 8, "depth": 2, "heads": 2}
    model = build_model("vit", input_shape=(1, 9, 9), n_classes=3, generator=generator, **options)
    patterns = torch.randn(3, 1, 9, 9, generator=generator)
    labels = torch.arange(60) % 3
    images = patterns[labels] + torch.randn(60, 1, 9, 9, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    kfac = KFAC(model, EVERY)
    assert kfac.not_preconditioned == ()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        kfac.step(0.3)
        optimizer.step()
        losses.append(loss.item())
    layers = {name.split("/", 2)[2] for name in kfac.state_dict()["tensors"]}
    assert layers == set(kfac.preconditioned)
    assert losses[-1] < 0.5 * losses[0]
