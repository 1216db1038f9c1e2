import json
from dataclasses import replace

import numpy as np
import pytest
from round_roofs import ROUND_ROOFS

from pipeline.precision import Roofs, attained, measure_attained, measure_roofs
from pipeline.precision.attained import _references, _wake_seconds, fit
from pipeline.precision.roofline import TYPICAL, Work, bound
from pipeline.precision.routines import instruction_sets
from pipeline.precision.sampling import TimeSamples

ROOFS = replace(ROUND_ROOFS, call_seconds=1e-7)
MUCH = Work(1e8, 1e5, 1e5, 0, numbers=5e4, routine="direct fp16")
LITTLE = Work(1e7, 1e4, 4e5, 0, numbers=2e5, routine="direct fp16")
FAR = Work(5e7, 8e6, 1e4, 0, numbers=1e4, routine="direct fp16")


def seconds(work, gflops, per_number, exposed):
    memory = bound(work, ROOFS).memory
    return work.flops / gflops / 1e9 + work.numbers * per_number + exposed * memory + ROOFS.call_seconds


def test_the_fit_finds_the_constants_that_the_times_were_made_with():
    # The near layers' memory time is part of what each number costs them.
    near = [(work, seconds(work, 80.0, 1e-10, 0.0)) for work in (MUCH, LITTLE)]
    found = fit([*near, (FAR, seconds(FAR, 80.0, 1e-10, 0.4))], ROOFS)
    assert found.gflops == pytest.approx(80.0)
    assert found.seconds_per_number == pytest.approx(1e-10)
    assert found.exposed == pytest.approx(0.4)
    # And the prediction gives the time of the layer that it was fitted with back.
    roofs = replace(ROOFS, attained={"direct fp16": found})
    assert bound(FAR, roofs).predicted == pytest.approx(seconds(FAR, 80.0, 1e-10, 0.4))


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("disturbed", [0, 1, 2])
def test_disturbed_times_give_figures_within_their_physical_range(factor, disturbed):
    pairs = [(work, seconds(work, 80.0, 1e-10, 0.4)) for work in (MUCH, LITTLE, FAR)]
    work, taken = pairs[disturbed]
    pairs[disturbed] = work, factor * taken
    found = fit(pairs, ROOFS)
    assert 0 < found.gflops <= ROOFS.gflops * (1 + 1e-9)
    assert found.seconds_per_number >= 0
    assert 0 <= found.exposed <= 1


def test_one_reference_layer_gives_the_cost_of_a_number():
    found = fit([(LITTLE, seconds(LITTLE, 100.0, 3e-10, 0.0))], ROOFS)
    assert (found.gflops, found.exposed) == (pytest.approx(100.0), 0.0)
    assert found.seconds_per_number == pytest.approx(3e-10)


@pytest.mark.parametrize("instruction_set", sorted({instruction_sets()[0], "portable"}))
def test_every_class_of_routines_is_measured(instruction_set, monkeypatch):
    # Weights in memory are some times what the last cache holds: of a server's that is a gigabyte.
    monkeypatch.setattr("pipeline.precision.roofline.cache_sizes", lambda: dict(TYPICAL))
    roofs = measure_attained(measure_roofs(instruction_set, seconds=0.02))
    assert roofs.call_seconds > 0
    wanted = {"direct fp16", "direct fp16, narrow", "direct fp32, groups of 1", "direct fp16, groups of 8",
              "depthwise fp16",
              "direct fp32", "product fp16, vector", "product fp32, matrix", "max_pool2d", "avg_pool2d",
              "adaptive_avg_pool2d", "sum"}  # fmt: skip
    assert wanted <= set(roofs.attained)
    assert Roofs.from_dict(json.loads(json.dumps(roofs.to_dict(), allow_nan=False))) == roofs


@pytest.mark.parametrize(("alone", "behind", "wake"), [(1e-6, 3e-6, 2e-6), (3e-6, 1e-6, 0.0)])
def test_waking_up_is_what_a_layer_takes_more_behind_a_large_one(monkeypatch, alone, behind, wake):
    """Of two layers in turn the second counts, and no machine is faster behind another layer: that is noise."""
    seconds = np.array([[9.0, behind]] * 3)

    class Fixed:
        def in_network(self, runs):
            assert all(len(run()) == 2 for run in runs.values())
            return dict.fromkeys(runs, TimeSamples(seconds, 0, 0, 1.0))

    monkeypatch.setattr(attained, "SAMPLING", Fixed())
    monkeypatch.setattr(attained, "_timed", lambda *_: [(LITTLE, alone)])
    stored = {"input_dtype": "float16", "output_dtype": "float16", "routine": "product fp16"}
    large = replace(_references()["linear"][0], **stored)
    assert _wake_seconds(large, ROOFS) == pytest.approx(wake)


def test_no_reference_layer_is_one_that_predictions_are_scored_on():
    """Those of the benchmark: a ResNet-18 for 32x32 images, a convolution of 64 channels and a product of 2048."""
    scored = {(channels, 64 * 32 // channels) for channels in (64, 128, 256, 512)} | {(2048, 2048)}
    shapes = {
        (layer.input_shape[0], layer.input_shape[1] if layer.kind == "conv2d" else layer.output_shape[0])
        for kind in ("conv2d", "linear")
        for layer in _references()[kind]
    }
    assert not shapes & scored
