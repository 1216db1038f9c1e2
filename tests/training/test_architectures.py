"""How much of torchvision's networks K-FAC preconditions, and that what it lists is seen at work."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from vision import models

from pipeline.training import KFAC, KFACSettings

NAMES = [
    "alexnet", "vgg11_bn", "resnet18", "squeezenet1_0", "densenet121", "inception_v3", "googlenet",
    "shufflenet_v2_x0_5", "mobilenet_v2", "mobilenet_v3_small", "resnext50_32x4d", "wide_resnet50_2", "mnasnet0_5",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "vit_b_16", "convnext_tiny", "swin_t", "maxvit_t",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_at_least_99_percent_of_the_parameters_are_preconditioned_and_the_rest_is_named(name):
    options = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    # Regnets compute their widths by tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = models.get_model(name, weights=None, **options)
    kfac = KFAC(model)
    sizes = {parameter: p.numel() for parameter, p in model.named_parameters()}
    left = sum(sizes[parameter] for parameter in kfac.not_preconditioned)
    assert left < 0.01 * sum(sizes.values())


SMALL = {
    "attention by a function of torch": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5),
    "attention by a function of its own": lambda: models.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 2], [2, 2], num_classes=5
    ),
    "convolutions in groups, and a normalization of its own": lambda: models.ConvNeXt(
        [models.convnext.CNBlockConfig(16, 32, 1), models.convnext.CNBlockConfig(32, None, 1)], num_classes=5
    ),
}


@pytest.mark.parametrize("build", SMALL.values(), ids=SMALL)
@pytest.mark.filterwarnings("ignore:.*torch.meshgrid")
def test_every_layer_that_is_listed_has_factors_after_two_steps(build):
    torch.manual_seed(0)
    model = build()
    kfac = KFAC(model, KFACSettings(factor_interval=1, inverse_interval=1, sample_fraction=1.0))
    images = torch.randn(3, 3, 32, 32)
    for _ in range(2):
        model.zero_grad()
        cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()
        kfac.step(0.1)
    layers = {name.split("/", 2)[2] for name in kfac.state_dict()["tensors"]}
    assert layers == set(kfac.preconditioned)
    assert kfac.terms is not None
