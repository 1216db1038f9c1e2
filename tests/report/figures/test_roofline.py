import re

import pytest

from pipeline.artifacts.results.half_network import TimingRow
from pipeline.report.drawing import Drawing
from pipeline.report.figures.roofline import _move, rooflines
from pipeline.report.metrics import Converted, Metrics
from pipeline.report.sections.precision import precision_section


def drawn(network: dict) -> list[Drawing]:
    found = Converted.model_validate(network)
    return rooflines("net", found.timings, found.roofs)


def test_a_layer_keeps_its_work_while_bytes_and_time_change(metrics):
    row = metrics["precision"]["kfac_smooth"]["timings"][0] | {
        "gflops": 40.0,
        "intensity": 2.0,
        "seconds_fp32": 3e-6,
        "seconds_fp16": 1e-6,
        "bytes_fp32": 8e3,
        "bytes_fp16": 4e3,
    }
    before_x, before_y, x, y = _move(TimingRow.model_validate(row))
    assert (x, y) == (2.0, 40.0)
    assert before_x == pytest.approx(1.0)
    assert before_y == pytest.approx(40.0 / 3)


def test_one_panel_per_batch_size_with_every_layer_numbered(metrics):
    network = metrics["precision"]["kfac_smooth"]
    panels = drawn(network)
    assert [re.search(r"at batch (\d+)", panel.description).group(1) for panel in panels] == ["1", "64"]
    for panel in panels:
        assert {f">{number}</text>" in panel.svg for number in range(1, 7)} == {True}
        assert all(level in panel.svg for level in ("L1 460", "L2 200", "L3 110", "DRAM 38.0", "peak 233"))
        assert all(f">{level}</text>" in panel.svg for level in ("L1", "L2", "L3", "DRAM"))


def test_memory_levels_that_nearly_coincide_share_a_label(metrics):
    network = metrics["precision"]["kfac_smooth"]
    network["roofs"]["bandwidth"] |= {"L3": 18.6, "DRAM": 17.5}
    for panel in drawn(network):
        assert ">L3, DRAM</text>" in panel.svg
        assert ">DRAM</text>" not in panel.svg


def test_products_of_pairs_have_a_roof_of_their_own_where_a_layer_runs_them(metrics):
    network = metrics["precision"]["kfac_smooth"]
    assert "BF16" not in drawn(network)[0].svg
    network["timings"][0]["routine_fp16"] = "direct convolution 32 outputs wide, bf16 weights, avx512_bf16"
    for panel in drawn(network):
        assert "BF16 pairs 466 GFLOP/s" in panel.svg
        assert "233 GFLOP/s (peak) and 466 GFLOP/s (BF16 pairs)" in panel.description


def test_it_draws_without_roofs_and_leaves_out_what_was_not_measured(metrics):
    network = metrics["precision"]["kfac_smooth"]
    rows = network["timings"]
    rows[0]["gflops"] = None
    rows[2]["seconds_fp16"] = 0.0
    panels = drawn(network | {"roofs": {}})
    assert "4\u00a0layers" in panels[0].description
    assert drawn(network | {"roofs": {}, "timings": rows[:1]}) == []
    assert drawn(network | {"timings": []}) == []


def test_a_crowd_of_layers_gets_only_the_numbers_that_have_room(metrics):
    network = metrics["precision"]["kfac_smooth"]
    row = network["timings"][0]
    network["timings"] = [
        row | {"layer": f"layer{place}", "gflops": 40.0 + 0.01 * place} for place in range(60)
    ]
    (panel,) = drawn(network)
    numbers = re.findall(r">([1-9][0-9]?)</text>", panel.svg)
    assert {"1", "2", "3"} <= set(numbers)
    assert "60" not in numbers


def test_a_layer_above_the_roof_is_explained(metrics):
    def caption():
        study = {"study": {"name": "own"}, "precision": metrics["precision"]}
        blocks = precision_section(Metrics.model_validate(study), {}).blocks
        return next(block.caption for block in blocks if hasattr(block, "panels"))

    for row in metrics["precision"]["kfac_smooth"]["timings"]:
        row["gflops"] = 240.0
    assert "above the roof" not in caption()  # of 233
    metrics["precision"]["kfac_smooth"]["timings"][0]["gflops"] = 260.0
    assert "A layer may be above the roof" in caption()
    row = metrics["precision"]["kfac_smooth"]["timings"][0]
    row["bound_seconds_fp16"] = 1.2 * row["seconds_fp16"]
    assert "One timing beats its roof by more than 5 %: it was measured too low" in caption()
