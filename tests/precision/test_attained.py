import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from round_roofs import ROUND_ROOFS
from torch import nn

from pipeline.models.efficientnet import EfficientNetLite0
from pipeline.models.imported import import_library
from pipeline.precision import Roofs, attained, measure_attained, measure_roofs
from pipeline.precision.attained import _waking, fit
from pipeline.precision.references import FAMILIES, linear
from pipeline.precision.roofline import TYPICAL, bound
from pipeline.precision.routines import instruction_sets
from pipeline.precision.sampling import Sampling, TimeSamples
from pipeline.precision.work import Work

ROOFS = replace(ROUND_ROOFS, call_seconds=1e-7)
MUCH = Work(1e8, 1e5, 1e5, 0, slots=1e8, numbers=5e4, routine="direct fp16")
LITTLE = Work(1e7, 1e4, 4e5, 0, slots=1e7, numbers=2e5, routine="direct fp16")
FAR = Work(5e7, 8e6, 1e4, 0, slots=5e7, numbers=1e4, routine="direct fp16")


def seconds(work, gflops, per_number, exposed):
    memory = bound(work, ROOFS).streamed
    return work.flops / gflops / 1e9 + work.numbers * per_number + exposed * memory + ROOFS.call_seconds


def test_the_fit_finds_the_constants_that_the_times_were_made_with():
    found = fit([(work, seconds(work, 80.0, 1e-10, 0.4)) for work in (MUCH, LITTLE, FAR)], ROOFS)
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
    few = Sampling(n_samples=1, n_warm=0, seconds_per_sample=0.0, seconds_at_most=0.0)
    monkeypatch.setattr(attained, "SAMPLING", few)
    monkeypatch.setattr(attained, "WAKING", few)
    once = replace(attained.SAMPLING, n_samples=1, n_at_least=1)
    monkeypatch.setattr(attained, "SAMPLING", once)
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

    monkeypatch.setattr(attained, "WAKING", Fixed())
    monkeypatch.setattr(attained, "_timed", lambda *_: [(LITTLE, alone)])
    stored = {"input_dtype": "float16", "output_dtype": "float16", "routine": "product fp16"}
    assert _waking(replace(linear(256, 256), **stored), ROOFS) == pytest.approx(wake)


def test_four_layers_tell_numbers_that_are_read_from_those_that_are_written():
    work = [
        Work(1e6, 1e3, 1e3, 0, slots=2e7, numbers=1e4, results=2e4, routine="direct fp16"),
        Work(1e6, 1e3, 1e3, 0, slots=1e6, numbers=3e4, results=1e4, routine="direct fp16"),
        Work(1e6, 1e3, 1e3, 0, slots=3e6, numbers=1e4, results=5e4, routine="direct fp16"),
        Work(1e6, 8e6, 1e3, 0, slots=9e6, numbers=2e4, results=1e4, routine="direct fp16"),
    ]
    pairs = [
        (
            one,
            one.slots / 80e9
            + one.numbers * 1e-10
            + one.results * 3e-10
            + 0.25 * bound(one, ROOFS).streamed
            + ROOFS.call_seconds,
        )
        for one in work
    ]
    found = fit(pairs, ROOFS)
    assert found.gflops == pytest.approx(80.0)
    assert found.seconds_per_number == pytest.approx(1e-10)
    assert found.seconds_per_result == pytest.approx(3e-10)
    assert found.exposed == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v2", "resnet18"])
def test_no_reference_layer_is_one_that_predictions_are_scored_on(name):
    """By channels, outputs, kernel, stride, groups and rows of the image, as the modules themselves see them."""
    if name == "efficientnet_lite0":
        module = EfficientNetLite0()
    else:
        if find_spec("torchvision") is None:
            pytest.skip("torchvision comes with the extra 'vision'")
        module = getattr(import_library("torchvision.models"), name)(weights=None)
    seen = set()

    def note(layer, given, _):
        if isinstance(layer, nn.Linear):
            seen.add((layer.in_features, layer.out_features))
        else:
            seen.add((layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0], layer.groups,
                      given[0].shape[2]))  # fmt: skip

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        for size in (32, 224) if name == "resnet18" else (224,):
            module.eval()(torch.zeros(1, 3, size, size))
    for family in FAMILIES:
        for layer in family.layers:
            geometry = layer.geometry
            if layer.kind == "linear":
                assert (layer.input_shape[0], layer.output_shape[0]) not in seen
            elif layer.kind == "conv2d":
                shape = (layer.input_shape[0], layer.output_shape[0], geometry.kernel[0], geometry.stride[0])
                assert (*shape, geometry.groups, layer.input_shape[1]) not in seen
