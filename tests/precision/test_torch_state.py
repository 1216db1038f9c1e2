"""Nothing depends on the state of torch that a caller has set: default types and devices, inference mode, autocast."""

import contextlib
import pickle
import threading

import pytest
import torch
from torch import nn

from pipeline.precision import Budget, HalfNetwork, Sampling, export_onnx, onnx_module
from pipeline.precision.torch_state import plain_torch


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Products of BF16 numbers, taken where they were faster, round activations and weights to 2^-9 of themselves.
# Two layers multiply.
ROUNDING = 4 * 2**-9

STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}


@pytest.fixture(params=STATES)
def state(request):
    return STATES[request.param]


def network_of(generator):
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2, 1, 1),
        nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, 5),
    ).eval()  # fmt: skip
    return module, torch.randn(6, 3, 8, 8, generator=generator)


def test_a_network_is_the_same_in_every_state_of_torch(state, tmp_path, generator):
    module, x = network_of(generator)
    network = HalfNetwork.convert(module, x)
    wanted, features, errors = network(x), network.features(x), network.layer_errors(x)
    plan, tensors = network.plan(), network.tensors()
    export_onnx(network, tmp_path / "plain.onnx")
    quick = Sampling(n_samples=1, n_at_least=1, seconds_at_most=0.01)
    with state():
        copies = [network, HalfNetwork.convert(module, x), HalfNetwork.from_plan(plan, tensors)]
        copies += [pickle.loads(pickle.dumps(network))]
        results = [copy(x) for copy in copies] + [network.features(x)]
        empty, found = network(x[:0]), network.layer_errors(x)
        network.choose_routines(x, sampling=quick, budget=Budget(output_error=1.0))
        export_onnx(network, tmp_path / "state.onnx")
        read = onnx_module(tmp_path / "state.onnx")
    assert all(torch.equal(result, wanted) for result in results[:-1])
    assert torch.equal(results[-1], features)
    assert (empty.dtype, empty.device.type, empty.shape) == (torch.float32, "cpu", (0, 5))
    assert found == errors
    assert (tmp_path / "state.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    torch.testing.assert_close(read(x), wanted, atol=ROUNDING, rtol=ROUNDING)


@plain_torch()
def failing():
    assert torch.empty(()).dtype == torch.float32
    assert torch.empty(()).device.type == "cpu"
    assert not torch.is_inference_mode_enabled()
    raise KeyError


def test_the_state_is_put_back_also_behind_an_error():
    with default_dtype(torch.float64), torch.inference_mode(), torch.device("meta"):
        with pytest.raises(KeyError):
            failing()
        assert torch.empty(()).dtype == torch.float64
        assert torch.empty(()).device.type == "meta"
        assert torch.is_inference_mode_enabled()


def test_constants_that_a_module_makes_without_a_type_fit_its_numbers(generator):
    class Turned(nn.Module):
        def forward(self, x):
            return (x @ torch.linspace(0, 1, 36).view(6, 6)).flatten(1)

    x = torch.randn(5, 6, 6, generator=generator)
    wanted = Turned()(x)
    assert (HalfNetwork.convert(Turned(), x)(x) - wanted).norm() < 2e-3 * wanted.norm()


def test_a_warning_of_a_conversion_points_at_the_call(generator):
    module, x = network_of(generator)
    with pytest.warns(UserWarning, match="stays at float32") as warned:
        HalfNetwork.convert(module, x, budget=Budget(output_error=0.0))
    assert warned[0].filename == __file__


def test_threads_that_convert_at_once_leave_the_default_type(generator):
    module, x = network_of(generator)
    wanted, found = HalfNetwork.convert(module, x)(x), []

    def convert():
        for _ in range(5):
            found.append(HalfNetwork.convert(module, x)(x))
            found.append(wanted if torch.zeros(1).dtype == torch.float32 else None)

    threads = [threading.Thread(target=convert) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 30
    assert all(torch.equal(result, wanted) for result in found)
    assert torch.get_default_dtype() == torch.float32
