"""What programs of others do to a network that K-FAC watches: copies, half precision, odd calls, bad numbers."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ConvergenceError
from pipeline.training import KFAC, KFACSettings

# Losses whose gradients are known in closed form, such as sums of squares, are not recognized.
pytestmark = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")

ALL = KFACSettings(
    factor_interval=1, inverse_interval=1, sample_fraction=1.0, kl_clip=0.0, block_size=0, damping=0.1
)


def network():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def batch(n=10, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=rng), torch.randint(3, (n,), generator=rng)


def backward(model, x, y):
    functional.cross_entropy(model(x), y).backward()


def test_passes_of_a_copy_are_not_those_of_the_original():
    found = []
    for copied in (False, True):
        model = network()
        kfac = KFAC(model, ALL)
        backward(model, *batch())
        if copied:
            backward(copy.deepcopy(model), *batch(seed=1))
            backward(torch.optim.swa_utils.AveragedModel(model).module, *batch(seed=2))
        kfac.step(1.0)
        found.append(kfac.state_dict()["tensors"])
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_a_copy_can_have_a_preconditioner_of_its_own():
    model = network()
    KFAC(model, ALL)
    twin = copy.deepcopy(model)
    kfac = KFAC(twin, ALL)
    backward(twin, *batch())
    kfac.step(1.0)
    assert kfac.state_dict()["tensors"]


def test_a_watched_network_is_saved_whole_and_loads_without_this_package(tmp_path):
    model, (x, _) = network(), batch()
    KFAC(model, ALL)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(x), model(x))
    path = tmp_path / "model.pt"
    path.write_bytes(buffer.getvalue())
    program = f"import sys, torch; torch.load({str(path)!r}, weights_only=False)(torch.ones(1, 4)); "
    program += "assert 'pipeline' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision_have_factors_in_single(dtype):
    x, y = batch()
    gradients = []
    for kind in (dtype, torch.float32):
        model = network().to(dtype).to(kind)
        kfac = KFAC(model, ALL)
        functional.cross_entropy(model(x.to(kind)).float(), y).backward()
        kfac.step(1.0)
        tensors = kfac.state_dict()["tensors"].values()
        assert {tensor.dtype for tensor in tensors} == {torch.float32}
        gradients.append(torch.cat([p.grad.float().flatten() for p in model.parameters()]))
    # Activations, slopes, gradients and results are rounded, each to `eps` / 2; damping bounds the condition.
    assert (gradients[0] - gradients[1]).norm() < 20 * torch.finfo(dtype).eps * gradients[1].norm()


def same_factors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor)


def factors_after(model, call):
    kfac = KFAC(model, ALL)
    call(model).sum().backward()
    kfac.step(1.0)
    return kfac.state_dict()["tensors"]


CALLS = {
    "by name": (
        lambda: nn.Linear(4, 3),
        lambda layer: layer(torch.ones(2, 4)),
        lambda layer: layer(input=torch.ones(2, 4)),
    ),
    "without a batch": (
        lambda: nn.Linear(4, 3),
        lambda layer: layer(torch.ones(1, 4)),
        lambda layer: layer(torch.ones(4)),
    ),
    "image without a batch": (
        lambda: nn.Conv2d(2, 3, 2),
        lambda layer: layer(torch.ones(1, 2, 4, 4)),
        lambda layer: layer(torch.ones(2, 4, 4)),
    ),
    "tokens in a row": (
        lambda: nn.Embedding(5, 3),
        lambda layer: layer(torch.tensor([[1], [4]])),
        lambda layer: layer(torch.tensor([1, 4])),
    ),
    "one token": (
        lambda: nn.Embedding(5, 3),
        lambda layer: layer(torch.tensor([4])),
        lambda layer: layer(torch.tensor(4)),
    ),
    "vector to normalize": (
        lambda: nn.LayerNorm(4),
        lambda layer: layer(torch.arange(4.0)[None]),
        lambda layer: layer(torch.arange(4.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "usual", "odd"), CALLS.values(), ids=CALLS)
def test_odd_calls_are_the_usual_ones_in_other_words(build, usual, odd):
    layer = build()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        assert usual(layer).numel() == odd(layer).numel()
    same_factors(factors_after(layer, usual), factors_after(twin, odd))


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_trained_of_a_normalization_is_preconditioned_by_its_own_second_moment(frozen):
    model = nn.Sequential(nn.LayerNorm(4)).double()
    getattr(model[0], frozen).requires_grad_(False)
    kfac = KFAC(model, ALL, loss="sum")
    assert kfac.preconditioned == ("0",)
    assert kfac.not_preconditioned == ()
    x = batch()[0].double()
    slopes = torch.arange(1.0, 5).double()
    (model(x) * slopes).sin().sum().backward()
    trained = model[0].bias if frozen == "weight" else model[0].weight
    gradient = trained.grad.clone()
    kfac.step(1.0)
    y = functional.layer_norm(x, (4,))
    single = (y * slopes).cos() * slopes * (1 if frozen == "weight" else y)
    second = single.square().mean(dim=0)
    torch.testing.assert_close(trained.grad, gradient / (second + ALL.damping))


def test_a_frozen_bias_of_a_linear_layer_does_not_mix_with_its_weight():
    layer = nn.Linear(4, 3).double()
    layer.bias.requires_grad_(False)
    kfac = KFAC(layer, ALL)
    x, y = batch()
    functional.cross_entropy(layer(x.double()), y).backward()
    kfac.step(1.0)
    assert kfac.state_dict()["tensors"]["factor/A/"].shape == (4, 4)


@pytest.mark.parametrize("layers", [[nn.Linear(4, 3)], [nn.PReLU(4), nn.Linear(4, 3)]])
def test_bad_numbers_in_the_first_batch_are_an_error(layers):
    model = nn.Sequential(*layers)
    kfac = KFAC(model, ALL)
    x, y = batch()
    x[3, 2] = float("nan")
    backward(model, x, y)
    with pytest.raises(ConvergenceError, match="is not finite at step 1"):
        kfac.step(1.0)


def test_a_state_that_lacks_layers_is_refused():
    model = network()
    kfac = KFAC(model, ALL)
    backward(model, *batch())
    kfac.step(1.0)
    state = kfac.state_dict()
    smaller = KFAC(model[:2], ALL)
    with pytest.raises(ValueError, match="the network lacks layer 3 of K-FAC"):
        smaller.load_state_dict(state)
    larger = KFAC(nn.Sequential(*network(), nn.Linear(3, 2)), ALL)
    with pytest.raises(ValueError, match="the state lacks layer 4 of K-FAC"):
        larger.load_state_dict(state)
    state["tensors"] = {name: t for name, t in state["tensors"].items() if not name.endswith("/1")}
    with pytest.raises(ValueError, match="lacks the matrices of layer 1; load the whole state"):
        KFAC(network(), ALL).load_state_dict(state)


def test_a_normalization_in_evaluation_mode_inside_of_a_training_network_uses_its_running_statistics():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    model[1].running_mean.fill_(0.5)
    model[1].running_var.fill_(4.0)
    model[1].eval()
    kfac = KFAC(model, ALL)
    x, y = batch()
    backward(model, x.double(), y)
    kfac.step(1.0)
    scores = model(x.double())
    errors = scores.softmax(1) - functional.one_hot(y, 3)
    normalized = (model[0](x.double()) - 0.5) / (4 + model[1].eps) ** 0.5
    expected = ((normalized * errors).square().mean(dim=0)).detach()
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/U/1"][:, 0, 0], expected)


def test_copies_of_data_parallel_are_refused():
    with pytest.raises(ValueError, match=r"cannot see the passes of nn\.DataParallel's copies"):
        KFAC(nn.DataParallel(network()), ALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripting_a_watched_network_is_refused_in_a_line():
    model = nn.Sequential(nn.Linear(3, 2))
    kfac = KFAC(model, ALL)
    with pytest.raises(AttributeError, match=r"cannot be scripted; call remove\(\) of KFAC first"):
        torch.jit.script(model)
    kfac.remove()
    torch.jit.script(model)


class Encoder(nn.Module):
    """Calls itself, which is one call of the network."""

    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoderLayer(4, 1, 6, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))

    def forward(self, x, again=True):
        x = self.norm(self.body(x))
        return self(x, False) if again else self.head(x)


def fail_once(kind):
    """A hook that fails at its first call."""
    calls = []

    def hook(*_):
        calls.append(None)
        if len(calls) == 1:
            raise kind

    return hook


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ArithmeticError])
@pytest.mark.parametrize("where", ["inside", "inside of both", "before"])
def test_a_call_that_is_broken_off_leaves_no_trace(kind, where):
    x, y = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    factors = []
    for breaks in (False, True):
        model = Encoder()
        hook = fail_once(kind)
        if breaks and where == "before":
            model.register_forward_pre_hook(hook)
        elif breaks:
            (model.body.linear1 if where == "inside" else model.head).register_forward_hook(hook)
        kfac = KFAC(model, ALL)
        if breaks:
            with pytest.raises(kind):
                model(x[:2])
        for _ in range(2):  # the scale of a loss of three parts is learned again, and rows are known
            model.zero_grad()
            for part, target in zip(x.split(3), y.view(5, 6).split(3), strict=True):
                loss = functional.cross_entropy(model(part).flatten(0, 1), target.flatten(), reduction="sum")
                (3 * loss).backward()
            kfac.step(1.0)
        assert not torch.overrides._get_current_function_mode_stack()
        assert kfac.terms.weight == 3
        factors.append(kfac.state_dict()["tensors"])
    assert factors[0].keys() == factors[1].keys()
    assert all(torch.equal(factors[0][name], factors[1][name]) for name in factors[0])


def test_a_mode_of_the_caller_stays_where_a_call_inside_of_it_is_broken_off():
    model = Encoder()
    model.head.register_forward_hook(fail_once(KeyboardInterrupt))
    kfac = KFAC(model, ALL)
    with pytest.raises(KeyboardInterrupt):
        model(torch.zeros(2, 3, 4))
    with torch.device("meta"):
        model(torch.zeros(2, 3, 4, device="cpu"))
        assert torch.empty(1).is_meta
    assert not torch.empty(1).is_meta
    assert not torch.overrides._get_current_function_mode_stack()
    kfac.remove()


def test_a_network_that_trains_in_evaluation_mode_is_told_so():
    model = network().eval()
    kfac = KFAC(model, ALL)
    backward(model, *batch())
    kfac.step(1.0)
    model.zero_grad()
    backward(model, *batch())
    with pytest.warns(UserWarning, match=r"evaluation mode do not count, so call train\(\)"):
        kfac.step(1.0)


def test_finite_gradients_whose_sum_is_beyond_half_precision_are_no_error():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.layer = nn.Parameter(torch.zeros(100_000)), nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x) + self.shift[:3]

    model, (x, y) = Large().half(), batch()
    kfac = KFAC(model, ALL)
    (functional.cross_entropy(model(x.half()).float(), y) + 2 * model.shift.float().sum()).backward()
    kfac.step(1.0)
    assert model.layer.weight.grad.isfinite().all()
    model.zero_grad()
    (
        functional.cross_entropy(model(x.half()).float(), y) + float("inf") * model.shift.float().sum()
    ).backward()
    with pytest.raises(ConvergenceError, match="gradient of shift is not finite at step 2"):
        kfac.step(1.0)


def test_layers_in_single_and_in_double_precision_are_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2).double())
    with pytest.raises(ValueError, match=r"layers have float32 \(0\) and float64 \(1\); convert the network"):
        KFAC(model, ALL)
    model[1].requires_grad_(False)
    assert KFAC(model, ALL).preconditioned == ("0",)


@pytest.mark.parametrize("steps_first", [False, True])
def test_a_mask_before_the_inputs_is_not_taken_for_samples(steps_first):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.MultiheadAttention(4, 2, batch_first=not steps_first)
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

        def forward(self, mask, x):
            x = self.norm(x)
            return self.head(self.layer(x, x, x, attn_mask=mask)[0].sum(dim=0 if steps_first else 1))

    torch.manual_seed(0)
    model, mask = Masked().double(), torch.zeros(5, 5, dtype=torch.float64)
    x, y = torch.randn(8, 5, 4).double(), torch.arange(8) % 3
    expected = 0.0
    for one, label in zip(x.split(1), y.split(1), strict=True):
        loss = functional.cross_entropy(model(mask, one.transpose(0, 1) if steps_first else one), label)
        found = torch.stack(torch.autograd.grad(loss, [model.norm.weight, model.norm.bias]), dim=1)
        expected = expected + found[:, :, None] * found[:, None, :] / 8
    kfac = KFAC(model, ALL)
    functional.cross_entropy(model(mask, x.transpose(0, 1) if steps_first else x), y).backward()
    kfac.step(1.0)
    torch.testing.assert_close(kfac.state_dict()["tensors"]["factor/U/norm"], expected)
