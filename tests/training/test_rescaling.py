import math

import torch
from torch import nn

from pipeline.models import build_model
from pipeline.training.rescaling import rescale, scale_free_weights


def network(name="resnet", **options):
    return build_model(
        name, input_shape=(1, 9, 9), n_classes=3, generator=torch.Generator().manual_seed(0), **options
    )


def test_rescaling_leaves_what_the_network_computes():
    model = network(width=4, blocks=(1, 1))
    x = torch.randn(5, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    weights = scale_free_weights(model)
    # Normalization adds 1e-5 to variances: lengthen first, so that neither side notices it.
    for i, weight in enumerate(weights):
        weight.data.mul_(10.0 + i)
    before = model.train()(x)
    rescale(weights)
    torch.testing.assert_close(model(x), before, rtol=2e-3, atol=2e-3)
    assert all(math.isclose(w.detach().norm(), math.sqrt(2 * len(w)), rel_tol=1e-6) for w in weights)


def test_all_convolutions_of_a_residual_network_are_scale_free_and_its_head_is_not():
    model = network(width=4)
    convolutions = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert {id(w) for w in scale_free_weights(model)} == {id(w) for w in convolutions}


def test_without_normalization_no_weight_is_scale_free():
    assert scale_free_weights(network("cnn")) == []
    assert len(scale_free_weights(network("cnn", batch_norm=True))) == 3
