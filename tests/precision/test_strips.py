"""What the model of a layer's time knows of results that are handed on in strips."""

import math
from dataclasses import replace

import pytest
import torch
from round_roofs import ROUND_ROOFS
from torch import nn

from pipeline.precision import HalfNetwork, Sampling
from pipeline.precision.reason import TimedPrecision, _bytes, reason
from pipeline.precision.roofline import bound
from pipeline.precision.strips import STRIP_BYTES, handed_on
from pipeline.precision.work import Work, work_of

ROOFS = replace(ROUND_ROOFS, call_seconds=1e-6)


class Expansion(nn.Module):
    """A large image between small ones, which something else may read, too."""

    def __init__(self, again=False):
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(8, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.project, self.again = nn.Conv2d(48, 8, 1), again

    def forward(self, x):
        large = self.expand(x)
        return self.project(self.depthwise(large) + large if self.again else self.depthwise(large)) + x


def converted(module, generator, size=80):
    return HalfNetwork.convert(module.eval(), torch.randn(2, 8, size, size, generator=generator))


@pytest.mark.parametrize(("again", "wanted"), [(False, [True, True, False]), (True, [False, True, False])])
def test_a_result_with_one_reader_is_handed_on_and_one_with_two_is_not(again, wanted, generator):
    execution = converted(Expansion(again), generator).execution
    assert [strips is not None and strips.gives for strips in execution.strips] == wanted
    assert [strips is not None and strips.reads for strips in execution.strips] == [False, *wanted[:-1]]
    assert execution.whole.n_stages == len(wanted) - sum(wanted)


@pytest.mark.parametrize("blocks", [1, 3])
def test_the_stages_add_up_whatever_surrounds_a_chain(blocks, generator):
    layers = [part for _ in range(blocks) for part in (Expansion(), nn.MaxPool2d(1), Expansion(again=True))]
    execution = converted(
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 80 * 80, 3)), generator
    ).execution
    assert execution.whole.n_stages == len(execution.layers) - sum(handed_on(execution._steps()))
    small = converted(nn.Sequential(*layers), generator, size=12).execution
    assert small.strips == [None] * len(small.layers)


@pytest.mark.parametrize("beyond", [0, 1])
def test_results_are_large_where_they_are_for_the_native_network(beyond, generator):
    rows = STRIP_BYTES // (2 * 32) + beyond  # of 32 numbers in binary16
    module = nn.Sequential(nn.Conv2d(8, 32, 1), nn.ReLU(), nn.Conv2d(32, 4, 1)).eval()
    network = HalfNetwork.convert(module, torch.randn(2, 8, rows, 1, generator=generator))
    assert network.execution.layers[0].output_dtype == "float16"
    assert handed_on(network.execution._steps()) == [bool(beyond), False]


def test_what_is_handed_on_stays_near_and_weights_are_read_for_every_strip():
    work = Work(0, 10_000, 20e6, 0, handed_bytes=18e6, n_strips=40, strip_bytes=30_000 + STRIP_BYTES)
    found = bound(work, ROOFS, mode="network", resident=30e6)
    apart = bound(Work(0, 10_000, 20e6, 0), ROOFS, mode="network", resident=30e6)
    assert sum(found.traffic.values()) == pytest.approx(40 * 10_000 + 20e6)
    assert found.traffic["L2"] == pytest.approx(18e6 + 39 * 10_000)
    assert found.traffic["L3"] > 2e6  # what the chain reads and gives as a whole
    assert found.seconds < apart.seconds
    assert found.predicted == pytest.approx(found.seconds + 40e-6)
    assert apart.predicted == pytest.approx(apart.seconds + 1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_and_sentences_of_a_network_tell_of_strips_and_those_of_layers_alone_do_not(batch, generator):
    network = converted(Expansion(), generator)
    large = batch * 48 * 80 * 80 * 2
    sampling = Sampling(n_samples=3, seconds_at_most=0.05)
    options = {"batch_sizes": (batch,), "roofs": ROOFS, "sampling": sampling}
    x = torch.randn(batch, 8, 80, 80, generator=generator)
    inside = network.time_layers(x, mode="network", **options)
    alone = network.time_layers(x, mode="warm", **options)
    assert [row.bytes_fp16 for row in inside] == [row.bytes_fp16 for row in alone]
    for place, row in enumerate(inside):
        handed = large * (2 if place == 1 else 1)
        assert row.traffic_fp16["L2"] >= handed
        assert f", handing on {_bytes(handed)} in strips that stay in L2. " in row.reason
    assert not any("strips" in row.reason for row in alone)
    strips = network.execution.strips[1]
    assert strips.n == math.ceil(2 * 48 * 80 * 80 * 2 / STRIP_BYTES)
    assert work_of(network.layers[1], network.execution.native[1], batch, strips).n_strips == batch * strips.n


def test_a_sentence_without_strips_is_as_before():
    work = Work(1e6, 1e5, 1e5, 0)
    side = TimedPrecision(work, bound(work, ROOFS), 2e-5)
    assert "strips" not in reason(side, side, (0.9, 1.1), ROOFS)
