import json

from pipeline.precision.plan import Geometry, Layer, RoundingReport, store_activations, windows

REPORT = RoundingReport(float("inf"), 0.0, 0.0, 54, 0, 0, 0, 1, 3, 3)
CONVOLUTION = Layer(
    "body.0", "conv2d", (2, 5, 6), (3, 3, 4), Geometry((3, 3), (1, 1), (0, 0)), True, "float32", "float16",
    (0, 3, 0), REPORT,
)  # fmt: skip
POOLING = Layer(
    "pool", "max_pool2d", (3, 5, 5), (3, 3, 3), Geometry((3, 3), (2, 2), (1, 1)), False, "float16", "float16"
)
LINEAR = Layer("head", "linear", (3, 2, 2), (7,), None, False, "float16", "float32")


def test_a_layer_survives_json():
    for layer in (CONVOLUTION, POOLING, LINEAR):
        assert Layer.from_dict(json.loads(json.dumps(layer.to_dict(), allow_nan=False))) == layer


def test_flops_parameters_and_bytes_are_those_of_the_definition():
    assert CONVOLUTION.flops == 2 * 3 * 2 * 9 * 12
    assert CONVOLUTION.n_parameters == 54 + 3
    assert (CONVOLUTION.n_bytes_fp16, CONVOLUTION.n_bytes_fp32) == (108 + 12, 228)
    assert CONVOLUTION.n_bytes(5, "fp16") == 120 + 5 * (4 * 60 + 2 * 36)
    assert CONVOLUTION.n_bytes(5, "fp32") == 228 + 5 * 4 * (60 + 36)
    assert (LINEAR.weight_shape, LINEAR.flops, LINEAR.n_parameters) == ((7, 12), 2 * 84, 91)
    assert (POOLING.n_parameters, POOLING.flops) == (0, 3 * 7 * 7)


def test_windows_are_clipped_to_the_image():
    rows, columns = windows(POOLING)
    assert rows == columns == [(0, 2), (1, 4), (3, 5)]


def test_adaptive_windows_cover_the_image():
    rows, columns = windows(
        Layer("p", "adaptive_avg_pool2d", (1, 5, 7), (1, 2, 3), None, False, "float16", "float16")
    )
    assert rows == [(0, 3), (2, 5)]
    assert columns == [(0, 3), (2, 5), (4, 7)]


def test_activations_are_half_but_for_the_ends_and_what_does_not_fit():
    stored = store_activations((CONVOLUTION, POOLING, LINEAR), wide={"pool"})
    assert [layer.input_dtype for layer in stored] == ["float32", "float16", "float32"]
    assert [layer.output_dtype for layer in stored] == ["float16", "float32", "float32"]
