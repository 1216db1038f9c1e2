import importlib

import onnx.reference
import pytest
import torch

from pipeline.precision import HalfNetwork


@pytest.fixture
def networks():
    return importlib.import_module("_networks")


@pytest.fixture
def engines():
    return importlib.import_module("peers.engines")


def small_residual(networks):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        networks.Block(4, 4, 1),
        networks.Block(4, 6, 2),
        torch.nn.MaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 5),
    )
    return networks.he(module)


def test_the_engines_are_given_the_network_that_the_plan_describes(networks, engines):
    x = networks.inputs(2, 3, 9, 8)
    module = small_residual(networks)
    network = HalfNetwork.convert(module, x)
    problem = engines.Problem(network.layers, network.parameters, x)
    model = onnx.load_from_string(problem.onnx)
    (found,) = onnx.reference.ReferenceEvaluator(model).run(None, {"input": x.numpy()})
    # A few dozen roundings to float32 in a row.
    assert problem.error(torch.from_numpy(found)) < 1e-5
    with torch.no_grad():
        assert problem.error(module(x)) < 1e-5


def test_an_engine_that_computes_something_else_is_refused(networks, engines):
    x = networks.inputs(1, 3, 9, 8)
    network = HalfNetwork.convert(small_residual(networks), x)
    problem = engines.Problem(network.layers, network.parameters, x)
    right = engines.torch_eager(problem)
    assert engines.check(problem, right, 1e-4) is right
    wrong = engines.Engine("wrong", "", right.run, lambda: 1.01 * right.result())
    with pytest.raises(AssertionError, match="wrong is off by"):
        engines.check(problem, wrong, 1e-4)


def test_the_chain_and_the_residual_network_have_the_layers_of_their_names(networks):
    assert sum(isinstance(part, torch.nn.Conv2d) for part in networks.chain()) == 16
    modules = list(networks.resnet18().modules())
    counted = [m for m in modules if isinstance(m, torch.nn.Linear) or getattr(m, "kernel_size", 0) == (3, 3)]
    assert len(counted) == 18
