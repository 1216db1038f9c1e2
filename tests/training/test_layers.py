"""Every kind of layer against its dense Fisher matrix, sample by sample."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.training import KFAC, KFACSettings
from pipeline.training.layers import STRUCTURES, UNIT_WISE, structure_of

# Losses whose gradients are known in closed form, such as sums of squares, are not recognized.
pytestmark = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")

EXACT = KFACSettings(factor_interval=1, inverse_interval=1, sample_fraction=1.0, block_size=0, kl_clip=0)


def images(n, channels, size=(5, 4)):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def tokens(n, length):
    return torch.randint(7, (n, length), generator=torch.Generator().manual_seed(3))


# A layer, and inputs for n samples. One position where the Kronecker product of one sample is exact.
CASES = {
    "linear": (lambda: nn.Linear(4, 3), lambda n: images(n, 1).flatten(1)[:, :4]),
    "linear without bias": (lambda: nn.Linear(4, 3, bias=False), lambda n: images(n, 1).flatten(1)[:, :4]),
    "convolution": (lambda: nn.Conv2d(2, 3, (5, 4)), lambda n: images(n, 2)),
    "grouped": (lambda: nn.Conv2d(4, 6, (5, 4), groups=2), lambda n: images(n, 4)),
    "depthwise": (lambda: nn.Conv2d(3, 3, (5, 4), groups=3, bias=False), lambda n: images(n, 3)),
    "dilated": (lambda: nn.Conv2d(2, 2, 2, dilation=(4, 3), stride=2), lambda n: images(n, 2)),
    "grouped in one dimension": (lambda: nn.Conv1d(4, 6, 5, groups=2), lambda n: images(n, 4, (5,))),
    "of three dimensions": (lambda: nn.Conv3d(2, 3, (2, 3, 2)), lambda n: images(n, 2, (2, 3, 2))),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 2, padding=1, groups=2),
        lambda n: images(n, 4, (2, 2)),
    ),
    "transposed in one dimension": (
        lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=2, bias=False),
        lambda n: images(n, 2, (2,)),
    ),
    "transposed in three dimensions": (
        lambda: nn.ConvTranspose3d(2, 3, 2, padding=1),
        lambda n: images(n, 2, (2, 2, 2)),
    ),
    "embedding": (lambda: nn.Embedding(7, 3), lambda n: tokens(n, 1)),
    "layer norm": (lambda: nn.LayerNorm(4), lambda n: images(n, 5)),
    "layer norm over two": (lambda: nn.LayerNorm((5, 4), bias=False), lambda n: images(n, 3)),
    "batch norm": (lambda: nn.BatchNorm2d(3), lambda n: images(n, 3)),
    "group norm": (lambda: nn.GroupNorm(2, 4), lambda n: images(n, 4)),
    "group norm without spaces": (lambda: nn.GroupNorm(2, 4), lambda n: images(n, 4, ())),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), lambda n: images(n, 3)),
    "instance norm of series": (lambda: nn.InstanceNorm1d(3, affine=True), lambda n: images(n, 3, (5,))),
    "instance norm of volumes": (
        lambda: nn.InstanceNorm3d(3, affine=True),
        lambda n: images(n, 3, (2, 2, 2)),
    ),
    "rms norm": (lambda: nn.RMSNorm(4), lambda n: images(n, 5)),
    "batch norm of volumes": (lambda: nn.BatchNorm3d(3), lambda n: images(n, 3, (2, 3, 2))),
    "batch norm of features": (lambda: nn.BatchNorm1d(4), lambda n: images(n, 1).flatten(1)[:, :4]),
}
KINDS = {
    nn.Linear: "linear",
    nn.Conv1d: "grouped in one dimension",
    nn.Conv2d: "convolution",
    nn.Conv3d: "of three dimensions",
    nn.ConvTranspose1d: "transposed in one dimension",
    nn.ConvTranspose2d: "transposed",
    nn.ConvTranspose3d: "transposed in three dimensions",
    nn.Embedding: "embedding",
    nn.LayerNorm: "layer norm",
    nn.BatchNorm2d: "batch norm",
    nn.BatchNorm1d: "batch norm of features",
    nn.BatchNorm3d: "batch norm of volumes",
    nn.GroupNorm: "group norm",
    nn.InstanceNorm1d: "instance norm of series",
    nn.InstanceNorm2d: "instance norm",
    nn.InstanceNorm3d: "instance norm of volumes",
    nn.RMSNorm: "rms norm",
}


def layer_of(case):
    layer = CASES[case][0]().double()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.normal_(generator=torch.Generator().manual_seed(i))
    return layer


def losses_of(model, x):
    """One loss per sample, not symmetric in the outputs."""
    output = model(x).flatten(1)
    return (output * torch.linspace(0.5, 2, output.shape[1], dtype=torch.float64)).sin().sum(dim=1)


def per_sample_gradients(model, x):
    """Gradients (n_samples, n_parameters) in the form of `Structure.gradient`; the batch passes as a whole."""
    losses = losses_of(model, x)
    structure = structure_of(model[0], block_size=0)
    rows = []
    for loss in losses:
        model.zero_grad()
        loss.backward(retain_graph=True)
        rows.append(structure.gradient().clone())
    return torch.stack(rows)


def dense_natural(case, model, x, damping):
    """Solve with the dense matrix that the docstrings promise, built from gradients of single samples."""
    gradients = per_sample_gradients(model, x)
    total = gradients.mean(dim=0)
    layer = model[0]
    if isinstance(layer, UNIT_WISE):
        U = torch.einsum("nuix,nujx->uij", gradients, gradients) / len(x)
        return torch.linalg.solve(U + damping * torch.eye(U.shape[-1], dtype=U.dtype), total)
    # One sample: gradient = g a', Fisher = (g g') ⊗ (a a'), of which damping is split by traces.
    assert len(x) == 1
    stack = gradients[0].view(getattr(layer, "groups", 1), -1, gradients.shape[-1])
    if isinstance(layer, nn.Embedding):
        a = torch.zeros(7, dtype=torch.float64)
        a[x[0, 0]] = 1
        pairs = [(stack[0].T @ a, a)]
        stack = stack.mT
    else:
        columns = [torch.linalg.svd(matrix) for matrix in stack]
        pairs = [(U[:, 0] * S[0], V[0]) for U, S, V in columns]
        inputs = structure_of(layer, block_size=0).inputs(x, 1).view(len(pairs), -1)
        if layer.bias is not None:
            inputs = torch.cat([inputs, torch.ones(len(pairs), 1, dtype=torch.float64)], dim=1)
        pairs = [(matrix @ a / (a @ a), a) for matrix, a in zip(stack, inputs, strict=True)]
    mean_A = sum(float(a @ a) for _, a in pairs) / sum(len(a) for _, a in pairs)
    mean_G = sum(float(g @ g) for g, _ in pairs) / sum(len(g) for g, _ in pairs)
    pi, root = (mean_A / mean_G) ** 0.5, damping**0.5
    natural = []
    for (g, a), gradient in zip(pairs, stack, strict=True):
        G = torch.outer(g, g) + root / pi * torch.eye(len(g), dtype=torch.float64)
        A = torch.outer(a, a) + root * pi * torch.eye(len(a), dtype=torch.float64)
        fisher = torch.kron(G, A)
        natural.append(torch.linalg.solve(fisher, gradient.flatten()).view_as(gradient))
    result = torch.stack(natural)
    return result.mT if isinstance(layer, nn.Embedding) else result


def test_every_kind_of_layer_has_a_case():
    assert set(KINDS) == set(STRUCTURES)
    assert all(type(CASES[case][0]()) is kind for kind, case in KINDS.items())


@pytest.mark.parametrize("case", CASES)
def test_the_natural_gradient_solves_with_the_dense_fisher_matrix(case):
    is_norm = "norm" in case
    model, x = nn.Sequential(layer_of(case)), CASES[case][1](6 if is_norm else 1)
    expected = dense_natural(case, model, x, damping=0.05)
    structure = structure_of(model[0], block_size=0)
    kfac = KFAC(model, KFACSettings(**(vars(EXACT) | {"damping": 0.05})))
    model.zero_grad()
    losses_of(model, x).mean().backward()
    kfac.step(1.0)
    torch.testing.assert_close(structure.gradient().reshape(expected.shape), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_statistics_do_not_depend_on_how_a_batch_is_cut_into_passes(case):
    if "batch norm" in case:
        pytest.skip("batch statistics are those of a pass")
    x = CASES[case][1](7)
    states = []
    for cuts in ([7], [3, 4], [1, 5, 1]):
        model = nn.Sequential(layer_of(case))
        kfac = KFAC(model, EXACT, loss="sum")
        for part in torch.split(x, cuts):
            losses_of(model, part).sum().backward()
        kfac.step(1.0)
        states.append(kfac.state_dict()["tensors"])
    for state in states[1:]:
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, states[0][name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("padding", [0, (1, 2)])
@pytest.mark.parametrize("dilation", [1, (1, 2)])
def test_a_transposed_convolution_is_a_plain_one_on_widened_images(stride, padding, dilation):
    extra = 0 if stride == 1 else (1, 2)
    options = {"padding": padding, "dilation": dilation, "output_padding": extra, "groups": 2}
    layer = nn.ConvTranspose2d(4, 6, (2, 3), stride, dtype=torch.float64, **options)
    x = images(3, 4)
    structure = structure_of(layer, block_size=0)
    layer(x).square().sum().backward()
    weights = [p.detach().clone() for p in layer.parameters()]
    for p, value in zip(layer.parameters(), weights, strict=True):
        p.grad.copy_(value)
    matrix = structure.gradient()  # the weights themselves, in the form of the natural gradient
    columns = structure.with_ones(structure.inputs(x, 3))
    torch.testing.assert_close(matrix @ columns, structure.gradients(layer(x)))
    structure.set_gradient(matrix.clone())
    assert all(torch.equal(p.grad, value) for p, value in zip(layer.parameters(), weights, strict=True))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize("padding", ["same", (2, 1), "valid"])
def test_padding_of_every_kind_gives_the_patches_of_the_layer(padding, padding_mode, rng):
    layer = nn.Conv2d(4, 6, (4, 3), padding=padding, padding_mode=padding_mode, groups=2, dtype=torch.float64)
    x = images(3, 4)
    structure = structure_of(layer, block_size=0)
    columns = structure.with_ones(structure.inputs(x, 3))
    weight = torch.cat([layer.weight.flatten(1), layer.bias[:, None]], dim=1).view(2, 3, -1)
    torch.testing.assert_close(weight @ columns, structure.gradients(layer(x)))


@pytest.mark.parametrize(
    ("block_size", "sizes"), [(0, [9]), (9, [9]), (8, [4, 5]), (3, [3, 3, 3]), (1, [1] * 9)]
)
def test_large_factors_are_cut_into_blocks_of_about_equal_size(block_size, sizes):
    structure = structure_of(nn.Linear(8, 2), block_size=block_size)
    assert [shape[-1] for shape in structure.inputs_shapes.values()] == sizes


def test_blocks_are_the_diagonal_blocks_of_the_whole_factor():
    factors = {}
    for block_size in (0, 3):
        model = nn.Sequential(layer_of("linear"))
        kfac = KFAC(model, KFACSettings(**(vars(EXACT) | {"block_size": block_size})))
        losses_of(model, CASES["linear"][1](5)).mean().backward()
        kfac.step(1.0)
        factors[block_size] = kfac.state_dict()["tensors"]
    whole = factors[0]["factor/A/0"]
    torch.testing.assert_close(factors[3]["factor/A0/0"], whole[:2, :2])
    torch.testing.assert_close(factors[3]["factor/A1/0"], whole[2:, 2:])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Embedding(5, 2, sparse=True),
        nn.Embedding(5, 2, max_norm=1.0),
        nn.LayerNorm(3, elementwise_affine=False),
        nn.Linear(2, 2).requires_grad_(False),
    ],
    ids=repr,
)
def test_layers_of_unusual_kinds_are_not_preconditioned(layer):
    assert structure_of(layer, block_size=0) is None


@pytest.mark.parametrize("ekfac", [False, True])
@pytest.mark.parametrize("batched", [True, False])
def test_a_transposed_convolution_told_its_output_size_is_one_with_that_padding(batched, ekfac):
    x = images(3 if batched else 1, 4, (3, 2))
    x = x if batched else x[0]
    found = []
    for padding in ((1, 0), 0):
        torch.manual_seed(0)
        layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, output_padding=padding).double()
        kfac = KFAC(layer, replace(EXACT, ekfac=ekfac))
        for _ in range(2):
            layer.zero_grad()
            y = layer(x) if padding else layer(x, output_size=(6, 3))
            y.sin().sum().backward()
            kfac.step(1.0)
        found.append(kfac.state_dict()["tensors"])
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor)


def test_a_layer_with_a_forward_of_its_own_is_seen_where_its_weight_is_applied():
    factors = []
    x = images(5, 1).flatten(1)[:, :4]
    for patched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 2, 1)).double()
        if patched:
            linear = model[0]
            linear.forward = lambda x, own=linear: 10 * functional.linear(x, own.weight, own.bias)
            convolution = model[1]
            convolution.forward = lambda x, own=convolution: 2 * nn.Conv1d.forward(own, x)
        kfac = KFAC(model, EXACT)
        assert kfac.preconditioned == (("0",) if patched else ("0", "1"))
        h = functional.linear(x, model[0].weight, model[0].bias) * (10 if patched else 1)
        functional.cross_entropy(model[1](model[0](x)[..., None])[..., 0], torch.arange(5) % 2).backward()
        kfac.step(1.0)
        scores = (2 if patched else 1) * functional.linear(h, model[1].weight[..., 0], model[1].bias)
        errors = (scores.softmax(1) - functional.one_hot(torch.arange(5) % 2, 2)).detach()
        slopes = errors @ model[1].weight[..., 0].detach() * (20 if patched else 1)
        factors.append((kfac.state_dict()["tensors"]["factor/G/0"], slopes.T @ slopes / 5))
        kfac.remove()
    for found, expected in factors:
        torch.testing.assert_close(found, expected)
