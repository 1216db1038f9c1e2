"""Images between torch's order and ours, and instruction sets that are left out."""

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.precision import HalfNetwork, _native, instruction_sets

SIZES = [1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 65]


@pytest.mark.parametrize("rows", SIZES)
def test_matrices_are_transposed(instruction_set, rows, generator):
    for columns in SIZES:
        x = torch.randn(2, rows, columns, generator=generator)
        y = torch.full((2, columns, rows), 9.0)
        _native.transpose(instruction_set, x, y, rows, columns)
        assert torch.equal(y, x.transpose(1, 2))


def test_an_empty_batch_is_transposed(instruction_set):
    _native.transpose(instruction_set, torch.empty(0, 6), torch.empty(0, 6), 2, 3)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (torch.zeros(6), torch.zeros(7)),
        (torch.zeros(7), torch.zeros(7)),
        (torch.zeros(6).half(), torch.zeros(6).half()),
    ],
)
def test_what_is_no_matrix_is_not_transposed(source, target):
    with pytest.raises(ValueError, match="whole float32 matrices"):
        _native.transpose("portable", source, target, 2, 3)


def test_images_in_torchs_order_are_float32_of_whole_channels():
    layer = _native.pooling(
        "portable", (3, 2, 2), row_start=[0], row_end=[2], column_start=[0], column_end=[2], average=True, relu=False,
        half_input=False, half_output=False,
    )  # fmt: skip
    network = _native.Network([(layer, 0, -1)], 2)
    x = torch.arange(36.0).view(3, 12)
    y = torch.empty(3, 3)
    assert network.run_channels_first("portable", x, 3, y, 3) == 0
    assert torch.equal(y, x.view(3, 3, 4).mean(2))
    for channels, result_channels in ((5, 3), (3, 2), (-3, 3)):
        with pytest.raises(ValueError, match="of as many pixels in every channel"):
            network.run_channels_first("portable", x, channels, y, result_channels)


@pytest.mark.parametrize("n", [1, 65])
def test_a_network_gives_the_same_for_images_of_either_order(instruction_set, n, generator):
    module = nn.Sequential(nn.Conv2d(5, 17, 3, padding=1), nn.ReLU(), nn.Conv2d(17, 18, 1)).eval()
    x = torch.randn(n, 5, 7, 6, generator=generator)
    network = HalfNetwork.convert(module, x[:8], instruction_set=instruction_set)
    found = network(x)
    assert found.is_contiguous()
    assert torch.equal(found, network(x.contiguous(memory_format=torch.channels_last)))
    with torch.no_grad():
        wanted = module(x)
    # Three roundings to 11 bits in each of two layers, whose errors are random.
    assert ((found - wanted).norm() / wanted.norm()).item() < 6 * 2.0**-11


@pytest.mark.parametrize("kept", instruction_sets())
def test_instruction_sets_can_be_left_out(kept, monkeypatch):
    """What a processor without them would offer: the portable one stays, whatever is named."""
    monkeypatch.setenv("PARSIMONY_WITHOUT", ",".join(name for name in instruction_sets() if name != kept))
    assert list(_native.instruction_sets()) == list(dict.fromkeys([kept, "portable"])) == instruction_sets()


@pytest.mark.parametrize("nonsense", ["AVX512", "avx512 ", "sse", "avx2, avx512"])
def test_an_instruction_set_that_there_is_not_is_not_left_out_in_silence(nonsense, monkeypatch):
    monkeypatch.setenv("PARSIMONY_WITHOUT", nonsense)
    with pytest.raises(
        ConfigError, match=r"PARSIMONY_WITHOUT leaves out .*; wanted names among amx_bf16, avx512_bf16"
    ):
        instruction_sets()
