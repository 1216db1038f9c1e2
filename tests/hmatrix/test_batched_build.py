"""Matrices compressed in batches against native ones and exact entries, on a GPU if there is one."""

import numpy as np
import pytest
import torch
from devices import BATCHES, Answers, OnOneDevice

from pipeline.errors import ConvergenceError
from pipeline.hmatrix import H2Matrix, Weak, kernels
from pipeline.hmatrix.batched import compression, padding
from pipeline.hmatrix.batched.build import DeviceSource
from pipeline.hmatrix.batched.interpolation import interpolate
from pipeline.hmatrix.batched.kernel import DeviceKernel
from pipeline.hmatrix.compression import compress_kernel
from pipeline.hmatrix.skeleton import FarSampling, WantedBasis

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :, None, 0]))
SOURCES = np.random.default_rng(2).random((301, 3))
CASES = {
    "symmetric": (COVARIANCE, {"diagonal": 0.1}),
    "nonsymmetric": (SKEWED, {}),
    "complex": (kernels.Helmholtz(wavenumber=4.0), {"diagonal": 1.0j}),
    "weak": (COVARIANCE, {"admissibility": Weak()}),
    "tight": (COVARIANCE, {"tolerance": 1e-9}),
    "rectangular": (COVARIANCE, {"sources": SOURCES}),
}
DEFAULTS = {"diagonal": 0.0, "tolerance": 1e-6, "leaf_size": 16, "sources": None, "admissibility": None}


def compressed(points, kernel, *, device, **options):
    return H2Matrix(compress_kernel(points, kernel, **(DEFAULTS | options), device=device))


@pytest.mark.parametrize(("kernel", "options"), CASES.values(), ids=CASES)
def test_errors_and_ranks_are_those_of_native_compression(kernel, options):
    points = np.random.default_rng(1).random((450, 3))
    batched, native = (compressed(points, kernel, device=device, **options) for device in (BATCHES, None))
    tolerance = options.get("tolerance", 1e-6)
    for A in (batched, native):
        assert A.error_estimate() <= tolerance
    assert abs(batched.n_bytes - native.n_bytes) <= 0.02 * native.n_bytes
    np.testing.assert_array_equal(batched.near.start, native.near.start)
    np.testing.assert_allclose(
        batched.near.values, native.near.values, atol=1e-6 if tolerance > 5e-7 else 1e-13
    )
    difference = np.linalg.norm(batched.to_dense() - native.to_dense())
    assert difference <= 2 * tolerance * np.linalg.norm(native.to_dense())


@pytest.mark.parametrize("case", ["symmetric", "nonsymmetric", "weak"])
def test_rows_of_a_bucket_stay_bounded_when_larger_samples_are_taken(case, monkeypatch):
    """Ten rows are too few for most boxes, which are sampled again and again."""
    points, (kernel, options) = np.random.default_rng(1).random((1000, 2)), CASES[case]
    sizes, real, shared = [], compression.interpolate, FarSampling.for_tolerance
    for module in (compression, padding):
        monkeypatch.setattr(module, "LARGEST", 2**16)
    monkeypatch.setattr(
        compression, "interpolate", lambda M, budget: sizes.append(M.shape) or real(M, budget)
    )
    monkeypatch.setattr(FarSampling, "for_tolerance", lambda *given: shared(*given, rows=10.0))
    A = compressed(points, kernel, device=BATCHES, **options)
    assert len({height for _, height, _ in sizes}) > 5
    assert max(b for b, _, _ in sizes) > 8
    assert all(b == 1 or b * height * width <= 2**16 for b, height, width in sizes)
    assert A.error_estimate() <= 1e-6


def test_a_done_matrix_is_not_disturbed_by_others_of_its_bucket():
    generator = torch.Generator().manual_seed(0)
    ranks = [0, 1, 5, 20]
    M = torch.stack(
        [
            torch.randn(30, k, generator=generator, dtype=torch.float64)
            @ torch.randn(k, 20, generator=generator, dtype=torch.float64)
            for k in ranks
        ]
    )
    together = interpolate(M, 1e-20)
    np.testing.assert_array_equal(together.rank, ranks)
    assert float((M - M @ together.P).norm()) <= 1e-10
    for one, P, turn in zip(M, together.P, together.turn, strict=True):
        alone = interpolate(one[None], 1e-20)
        assert torch.equal(alone.turn[0], turn)
        torch.testing.assert_close(alone.P[0], P)
        kept = torch.nonzero(turn < 20)[:, 0]
        torch.testing.assert_close(P[:, kept][kept], torch.eye(len(kept), dtype=torch.float64))
        assert not P[turn == 20].any()


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17])
def test_awkward_sizes(n):
    points = np.random.default_rng(1).random((n, 2))
    A = compressed(points, COVARIANCE, device=BATCHES, diagonal=0.5)
    x = torch.from_numpy(points)
    np.testing.assert_allclose(A.to_dense(), COVARIANCE(x, x).numpy() + 0.5 * np.eye(n), atol=1e-6)


def test_duplicates_and_single_precision_points_are_no_trouble():
    points = np.repeat(np.random.default_rng(1).random((150, 2)), 3, axis=0).astype(np.float32)
    A = compressed(points, COVARIANCE, device=BATCHES, tolerance=1e-4)
    assert A.dtype == np.float32
    assert A.error_estimate() <= 1e-4


def test_boxes_that_stay_large_are_refused():
    A = compressed(np.random.default_rng(1).random((500, 2)), COVARIANCE, device=BATCHES)
    source = DeviceSource(DeviceKernel(COVARIANCE, A.rows, A.columns, torch.float64, BATCHES))
    with pytest.raises(ConvergenceError, match="does not compress"):
        source.basis(
            WantedBasis(
                A.interactions.far, FarSampling(1e-30, 100, largest_box=40),
                transposed=False, stored=np.dtype("float64"),
            )
        )  # fmt: skip


@pytest.mark.parametrize("case", ["symmetric", "nonsymmetric", "complex", "rectangular"])
def test_nothing_but_what_is_kept_leaves_the_device(case, monkeypatch):
    points, (kernel, options) = np.random.default_rng(1).random((300, 3)), CASES[case]
    monkeypatch.setattr(
        "pipeline.hmatrix.compression.sampled_error", lambda *_, **__: 0.0
    )  # native on the CPU
    answers = Answers(monkeypatch)
    expected = compressed(points, kernel, device=BATCHES, **options)
    answers.tell_again()
    with OnOneDevice():
        A = compressed(points, kernel, device=torch.device("meta"), **options)
    assert next(answers.replay, None) is None
    assert A.device.type == "meta"
    np.testing.assert_array_equal(A.far.values, expected.far.values)
    np.testing.assert_array_equal(A.row_basis.order, expected.row_basis.order)


def test_a_function_that_knows_two_dimensional_arrays_alone_is_refused():
    flat = kernels.Custom(lambda x, y: torch.exp(-(x[:, None, :] - y[None, :, :]).square().sum(-1)))
    with pytest.raises(ValueError, match=r"points of many boxes at once"):
        compressed(np.random.default_rng(1).random((300, 2)), flat, device=BATCHES)
