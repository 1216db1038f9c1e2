"""Files of both of torch's exporters, of every operator set that they write, and weights in files of their own."""

import onnx
import onnx.reference
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.precision import onnx_module

NEWEST = onnx.defs.onnx_opset_version()


class Mixed(nn.Module):
    """Whatever exporters write in several nodes, or otherwise in other operator sets."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU6())
        self.norm, self.gate = nn.LayerNorm(8), nn.Linear(8, 8)
        self.wide = nn.ConvTranspose2d(8, 4, 2, 2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.depthwise(self.stem(x))
        n, c, rows, columns = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        x = x * torch.sigmoid(self.gate(tokens.mean(1)))[:, :, None, None]
        left, right = x.split(4, 1)
        x = torch.cat((functional.gelu(left), functional.silu(right)), 1)
        x = x.view(n, 2, c // 2, rows, columns).transpose(1, 2).reshape(n, c, rows, columns)
        x = functional.interpolate(self.wide(x), scale_factor=2.0, mode="bilinear")
        return self.head(functional.pad(x, (1, 0, 0, 1)).amax((2, 3))).softmax(1)


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    module = Mixed()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, 3, 8, 6))  # statistics that are not those of the beginning
    return module.eval(), torch.randn(2, 3, 8, 6)


def assert_read(path, module, x):
    """The file computes what the module does, whatever the number of samples."""
    read = onnx_module(path)
    with torch.no_grad():
        for part in (x, x[:1]):
            torch.testing.assert_close(read(part), module(part), rtol=1e-4, atol=1e-5)


def exported(module, x, path, **options):
    torch.onnx.export(module, (x,), str(path), input_names=["x"], **options)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", range(11, 21))
def test_the_exporter_that_traces(mixed, tmp_path, opset):
    module, x = mixed
    path = tmp_path / "network.onnx"
    exported(module, x, path, dynamo=False, opset_version=opset, dynamic_axes={"x": {0: "n"}})
    assert_read(path, module, x)
