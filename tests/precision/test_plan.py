import json
from dataclasses import asdict, replace

from pipeline.precision.plan import (
    INPUT,
    Layer,
    RoundingReport,
    WindowGeometry,
    close,
    store_activations,
    windows,
)

REPORT = RoundingReport(float("inf"), 0.0, 0.0, 54, 0, 0, 0, 1, 3, 3)
CONVOLUTION = Layer(
    "body.0", "conv2d", INPUT, (2, 5, 6), (3, 3, 4), WindowGeometry((3, 3), (1, 1), (0, 0)), relu=True,
    output_dtype="float16", routine="winograd4 fp16", scale_exponents=(0, 3, 0), rounding=REPORT,
)  # fmt: skip
POOLING = Layer(
    "pool", "max_pool2d", "body.0", (3, 5, 5), (3, 3, 3), WindowGeometry((3, 3), (2, 2), (1, 1)),
    input_dtype="float16", output_dtype="float16",
)  # fmt: skip
LINEAR = Layer("head", "linear", "pool", (3, 2, 2), (7,), input_dtype="float16")
GROUPED = Layer(
    "side",
    "conv2d",
    "pool",
    (6, 3, 3),
    (4, 3, 3),
    WindowGeometry((3, 3), (1, 1), (1, 1), groups=2),
    addend="pool",
)
SUM = Layer("sum", "add", "pool", (3, 3, 3), (3, 3, 3), addend="body.0", relu=True, addend_dtype="float16")


def test_a_layer_survives_json():
    for layer in (CONVOLUTION, POOLING, LINEAR, GROUPED, SUM):
        assert Layer.from_dict(json.loads(json.dumps(layer.to_dict(), allow_nan=False))) == layer


def test_a_layer_is_stored_without_what_is_as_it_is_by_default_and_read_with_it():
    document = json.loads(json.dumps(LINEAR.to_dict()))
    assert document == {
        "name": "head", "kind": "linear", "source": "pool", "input_shape": [3, 2, 2], "output_shape": [7],
        "input_dtype": "float16",
    }  # fmt: skip
    for layer in (CONVOLUTION, LINEAR, SUM):  # as earlier versions wrote it
        assert Layer.from_dict(json.loads(json.dumps(asdict(layer)))) == layer


def test_flops_parameters_and_bytes_are_those_of_the_definition():
    assert CONVOLUTION.flops == 2 * 3 * 2 * 9 * 12
    assert CONVOLUTION.n_parameters == 54 + 3
    assert (CONVOLUTION.n_bytes_fp16, CONVOLUTION.n_bytes_fp32) == (108 + 12, 228)
    assert CONVOLUTION.n_bytes(5, "fp16") == 120 + 5 * (4 * 60 + 2 * 36)
    assert CONVOLUTION.n_bytes(5, "fp32") == 228 + 5 * 4 * (60 + 36)
    assert (LINEAR.weight_shape, LINEAR.flops, LINEAR.n_parameters) == ((7, 12), 2 * 84, 91)
    assert (POOLING.n_parameters, POOLING.flops) == (0, 3 * 7 * 7)
    assert (GROUPED.weight_shape, GROUPED.flops) == ((4, 3, 3, 3), 2 * 4 * 27 * 9 + 36)
    assert (SUM.n_parameters, SUM.flops, SUM.n_bytes(2, "fp16")) == (0, 27, 2 * 27 * (4 + 2 + 4))


def test_windows_are_clipped_to_the_image():
    rows, columns = windows(POOLING)
    assert rows == columns == [(0, 2), (1, 4), (3, 5)]


def test_adaptive_windows_cover_the_image():
    rows, columns = windows(Layer("p", "adaptive_avg_pool2d", INPUT, (1, 5, 7), (1, 2, 3)))
    assert rows == [(0, 3), (2, 5)]
    assert columns == [(0, 3), (2, 5), (4, 7)]


def test_activations_are_half_but_for_the_ends_and_what_does_not_fit():
    stored = store_activations((CONVOLUTION, POOLING, SUM, LINEAR), wide={"pool"})
    assert [layer.input_dtype for layer in stored] == ["float32", "float16", "float32", "float32"]
    assert [layer.output_dtype for layer in stored] == ["float16", "float32", "float16", "float32"]
    assert stored[2].addend_dtype == "float16"


def test_a_closed_layer_keeps_its_weights_as_they_are():
    (closed, same) = close((CONVOLUTION, LINEAR), {"body.0"})
    assert (closed.weight_dtype, closed.scale_exponents, closed.rounding) == ("float32", (), None)
    assert closed.n_bytes_fp16 == closed.n_bytes_fp32
    assert same == LINEAR


def test_the_float32_twin_of_a_layer_stores_nothing_in_half():
    single = CONVOLUTION.in_single()
    assert single == replace(CONVOLUTION, output_dtype="float32", weight_dtype="float32", scale_exponents=())
