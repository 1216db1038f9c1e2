import operator

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import MODELS, build_model


class Tiny(nn.Module):
    """What a user might bring: its head is not called so."""

    def __init__(self, num_classes, hidden=6):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.LazyLinear(hidden)
        self.classifier = nn.Sequential(nn.Tanh(), nn.Linear(hidden, num_classes))

    def forward(self, x):
        return self.classifier(self.hidden(self.pool(x).flatten(1)))


SHAPES = [(1, 28, 28), (1, 8, 8), (3, 32, 32), (1, 7, 13)]
CASES = {
    "cnn": [{}, {"batch_norm": True}, {"channels": (3,), "hidden": 5}],
    "mlp": [{}, {"hidden": (7, 5)}, {"hidden": ()}],
    "vit": [{"width": 8, "depth": 1, "heads": 2}, {"patch": 3, "width": 6, "depth": 2, "heads": 1}],
    "imported": [{"path": f"{__name__}:Tiny"}],
    "resnet": [{"width": 4}, {"width": 3, "blocks": (1, 2)}],
}
# Their traces hold nothing but layers, and additions in one of them.
PLAIN = ("cnn", "mlp", "resnet")
ROWS = [(name, options) for name, cases in CASES.items() for options in cases]


def build(name, shape=(1, 28, 28), seed=0, n_classes=10, **options):
    generator = torch.Generator().manual_seed(seed)
    return build_model(name, input_shape=shape, n_classes=n_classes, generator=generator, **options)


def test_every_model_has_a_case():
    assert set(CASES) == set(MODELS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "options"), ROWS)
def test_forward_is_the_head_of_the_features(name, options, shape):
    model = build(name, shape, n_classes=4, **options).eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    features = model.features(x)
    assert features.shape == (3, model.head.in_features)
    torch.testing.assert_close(model.head(features), model(x))
    assert model(x).shape == (3, 4)


@pytest.mark.parametrize(("name", "options"), [row for row in ROWS if row[0] in PLAIN])
def test_a_trace_sees_only_plain_layers_and_computes_the_same(name, options):
    model = build(name, **options).eval()
    trace = torch.fx.symbolic_trace(model)
    functions = {node.target for node in trace.graph.nodes if node.op == "call_function"}
    assert functions == ({operator.add} if name == "resnet" else set())
    assert {node.op for node in trace.graph.nodes} <= {
        "placeholder",
        "call_module",
        "call_function",
        "output",
    }
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    assert torch.equal(trace(x), model(x))


@pytest.mark.parametrize(("name", "options"), ROWS)
def test_one_generator_state_gives_one_network_and_the_global_state_is_left_alone(name, options):
    before = torch.get_rng_state()
    one, same, other = (build(name, seed=seed, **options).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_weights_start_with_variance_two_over_fan_in_and_biases_at_zero():
    layer = build("mlp", hidden=(300,)).body.hidden1
    # The sample variance of n normal numbers has the relative deviation sqrt(2 / n).
    n = layer.weight.numel()
    assert layer.weight.var().item() == pytest.approx(2 / 784, rel=5 * (2 / n) ** 0.5)
    assert not layer.bias.any()


def test_batch_normalization_starts_as_the_identity_of_standardized_inputs():
    model = build("cnn", batch_norm=True)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 3
    for norm in norms:
        assert (norm.weight == 1).all()
        assert (norm.running_var == 1).all()
        assert not norm.bias.any()
        assert not norm.running_mean.any()
    assert all(module.bias is None for module in model.modules() if isinstance(module, nn.Conv2d))


def test_the_small_cnn_has_the_size_its_documentation_states():
    assert sum(parameter.numel() for parameter in build("cnn").parameters()) == 122_922


def test_the_residual_network_is_resnet_18():
    # He et al. count 18 layers with weights; 11.2 million parameters follow from their widths with a 3x3 stem.
    model = build("resnet")
    weights = [m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (
        len(weights)
        - sum("shortcut" in name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
        == 18
    )
    stages = [(64, 64), (64, 128), (128, 256), (256, 512)]
    blocks = sum(9 * (a * b + 3 * b * b) + 8 * b + (a * b + 2 * b if a != b else 0) for a, b in stages)
    assert sum(p.numel() for p in model.parameters()) == 9 * 64 + 128 + blocks + 513 * 10


def test_a_residual_block_whose_convolutions_are_zero_passes_positive_inputs_on():
    block = build("resnet", width=4).body.stage1.block1.eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x)


def test_small_images_keep_more_than_one_pixel():
    assert build("cnn", (1, 8, 8)).body.hidden.in_features == 64 * 2 * 2


def test_an_unknown_model_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"no model 'vgg'.*cnn, imported, mlp, resnet, vit"):
        build("vgg")


def test_a_transformer_can_be_traced():
    model = build("vit", width=8, depth=1, heads=2).eval()
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), model(x))


def test_attention_is_the_one_of_torch():
    attention = build("vit", width=8, depth=1, heads=2).body.block1.attention
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        parts = [attention.query, attention.key, attention.value]
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in parts]))
        reference.in_proj_bias.copy_(torch.cat([layer.bias for layer in parts]))
        reference.out_proj.load_state_dict(attention.project.state_dict())
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(attention(x), reference(x, x, x, need_weights=False)[0])


def test_a_transformer_without_places_does_not_see_the_order_of_its_patches():
    model = build("vit", (1, 8, 8), width=8, depth=1, heads=2).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    swapped = torch.cat([x[:, :, 4:], x[:, :, :4]], dim=2)
    assert not torch.allclose(model(swapped), model(x), rtol=1e-3)
    torch.nn.init.zeros_(model.body.embed.position.weight)
    torch.testing.assert_close(model(swapped), model(x))


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("nowhere:Net", {}, "No module named 'nowhere'"),
        ("torch.nn:Nothing", {}, "Nothing"),
        (f"{__name__}:Tiny", {"hiden": 3}, "hiden"),
        (f"{__name__}:no_linear_layer", {}, "whose last layer is linear with 10 outputs"),
    ],
)
def test_a_network_that_cannot_be_imported_is_one_line(path, options, words):
    with pytest.raises(ConfigError, match=f"model.path '{path}'.*{words}") as error:
        build("imported", path=path, options=options)
    assert "\n" not in str(error.value)


def no_linear_layer(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_network_of_torchvision_is_built_beside_any_build_of_torch():
    model = build("imported", (3, 32, 32), path="torchvision.models:resnet18")
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    # He et al., table 1, with 10 classes and a 7x7 stem.
    assert sum(p.numel() for p in model.parameters()) == 11_181_642
