import itertools
import json
import math
import re

import pytest
import torch

from pipeline.precision import HalfNetwork, Roofs, Sampling
from pipeline.precision.timing import unconnected

ROOFS = Roofs(
    instruction_set="portable",
    gflops=100.0,
    conversions=50.0,
    bandwidth={"L1": 400.0, "L2": 200.0, "DRAM": 25.0},
    cache_bytes={"L1": 32_000, "L2": 1_000_000},
)
QUICK = Sampling(n_samples=4, seconds_per_sample=1e-6, seconds_at_most=0.05)


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (torch.nn.Conv2d(5, 5, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        return self.third(x + self.second(x))


@pytest.fixture
def timings(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    told = []
    rows = network.time_layers(x, batch_sizes=(1, 5), roofs=ROOFS, sampling=QUICK, on_timing=told.append)
    assert told == rows
    return network, rows


def test_there_is_a_row_per_layer_and_batch_in_order(timings):
    network, rows = timings
    names = [layer.name for layer in network.layers]
    assert [(row.layer, row.batch) for row in rows] == [(name, batch) for batch in (1, 5) for name in names]


def test_the_figures_of_a_row_fit_each_other(timings):
    network, rows = timings
    layers = {layer.name: layer for layer in network.layers}
    for row in rows:
        layer = layers[row.layer]
        assert row.kind == layer.kind
        assert row.flops == row.batch * layer.flops
        # Packed weights are padded to whole vectors.
        assert layer.n_bytes(row.batch, "fp32") - 4 * layer.n_parameters <= row.bytes_fp32
        assert layer.n_bytes(row.batch, "fp16") - 4 * layer.n_parameters <= row.bytes_fp16
        assert sum(row.traffic_fp16.values()) >= row.bytes_fp16
        assert row.executed_flops > 0
        assert row.speedup == pytest.approx(row.seconds_fp32 / row.seconds_fp16)
        assert row.speedup_torch == pytest.approx(row.seconds_torch / row.seconds_fp16)
        assert row.predicted_speedup == pytest.approx(row.predicted_seconds_fp32 / row.predicted_seconds_fp16)
        assert row.predicted_seconds_fp16 >= row.bound_seconds_fp16
        assert row.gflops == pytest.approx(row.flops / row.seconds_fp16 / 1e9)
        assert row.gbytes == pytest.approx(row.bytes_fp16 / row.seconds_fp16 / 1e9)
        assert row.intensity == pytest.approx(row.flops / row.bytes_fp16)
        for low, middle, high in (
            (row.interval_fp32[0], row.seconds_fp32, row.interval_fp32[1]),
            (row.interval_fp16[0], row.seconds_fp16, row.interval_fp16[1]),
        ):
            assert 0 < low <= middle <= high
        assert row.min_fp32 <= row.seconds_fp32
        assert row.min_fp16 <= row.seconds_fp16
        assert row.bound in ("compute", "L1", "L2", "DRAM", "conversion")
        assert row.level in ("L1", "L2", "DRAM")


def test_a_row_says_which_routines_ran(timings):
    network, rows = timings
    for row in rows:
        assert network.instruction_set in row.routine_fp16
        assert network.instruction_set in row.routine_fp32
        assert "fp32" in row.routine_fp32 or row.kind.endswith("pool2d")
        assert row.routine_torch.startswith("torch eager fp32")
        if row.kind == "linear":
            assert row.routine_fp16.startswith("matrix-vector" if row.batch == 1 else "matrix-matrix")


def test_the_reason_names_the_routine_and_the_weights_that_ran(case, instruction_set):
    """Asked for by the plan or not: an instruction set without BF16 runs something else, and the sentence says what."""
    module, x = case
    network = HalfNetwork.convert(module, x, instruction_set=instruction_set)
    for precision in ("fp16", "bf16", "fp32"):
        asked = {
            layer.name: f"{'product' if layer.kind == 'linear' else 'direct'} {precision}"
            for layer in network.layers
            if layer.has_weights
        }
        planned = network.with_routines(asked)
        for row in planned.time_layers(x, batch_sizes=(2,), roofs=ROOFS, sampling=QUICK):
            if row.layer in asked:
                weights = next(
                    name for name in ("fp16", "bf16", "fp32") if f"{name} weights" in row.routine_fp16
                )
                algorithm = row.routine_fp16.split()[0]
                gained = rf"x by {algorithm}.* with {weights.upper()} weights[,.] "
                equal = (
                    rf" makes no clear difference, .*x with {algorithm}.* of {weights.upper()} weights[,.] "
                )
                assert re.search(f"{gained}|{equal}", row.reason)
                if row.reason.split()[1] in ("wins,", "loses,"):
                    assert row.reason.startswith("The plan" if weights == "fp32" else weights.upper())


def test_a_row_survives_json_and_has_only_finite_numbers(timings):
    _, rows = timings
    for row in rows:
        document = json.loads(json.dumps(row.to_dict(), allow_nan=False))
        assert document["reason"] == row.reason
        assert all(math.isfinite(value) for value in document.values() if isinstance(value, float))


def test_a_batch_larger_than_the_inputs_repeats_them(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    rows = network.time_layers(x[:2], batch_sizes=(7,), roofs=ROOFS, sampling=QUICK)
    assert {row.batch for row in rows} == {7}
    with pytest.raises(ValueError, match="at least one input"):
        network.time_layers(torch.empty(0, 1, 7, 5), roofs=ROOFS, sampling=QUICK)


def test_in_the_network_there_is_a_row_per_layer_too(case):
    module, x = case
    network = HalfNetwork.convert(module, x)
    rows = network.time_layers(x, batch_sizes=(1, 3), mode="network", roofs=ROOFS, sampling=QUICK)
    names = [layer.name for layer in network.layers]
    assert [(row.layer, row.batch, row.mode) for row in rows] == [
        (name, batch, "network") for batch in (1, 3) for name in names
    ]
    assert all(min(row.seconds_fp32, row.seconds_fp16, row.seconds_torch) > 0 for row in rows)


def test_layers_that_are_timed_behind_one_chill_share_no_numbers():
    module = Residual().eval()
    layers = HalfNetwork.convert(
        module, torch.randn(9, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    ).layers
    assert any(layer.addend is not None for layer in layers)
    groups = unconnected(layers)
    assert sorted(itertools.chain(*groups)) == list(range(len(layers)))
    for group in groups:
        touched = [
            {layers[place].name, layers[place].source, layers[place].addend} - {None} for place in group
        ]
        assert len(set.union(*touched)) == sum(map(len, touched))


def test_a_chain_of_layers_makes_two_groups():
    layers = torch.nn.Sequential(*(torch.nn.Linear(5, 5) for _ in range(7)))
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert unconnected(HalfNetwork.convert(layers, x).layers) == [[0, 2, 4, 6], [1, 3, 5]]


def test_cold_rows_are_bound_by_memory_and_say_so(mlp):
    module, x = mlp
    network = HalfNetwork.convert(module, x)
    rows = network.time_layers(x, batch_sizes=(1,), mode="cold", roofs=ROOFS, sampling=QUICK)
    assert [(row.mode, row.level, row.bound) for row in rows] == [("cold", "DRAM", "DRAM")] * 2
    assert "DRAM-bound" in rows[0].reason
