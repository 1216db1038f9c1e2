"""The batched product in torch against the native one, on the CPU."""

import gc
import weakref

import numpy as np
import pytest
import torch

from pipeline.hmatrix import H2Matrix, Weak, kernels
from pipeline.hmatrix.batched import BatchedProduct

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :1]))
CASES = {
    "symmetric": (COVARIANCE, {"diagonal": 0.1}),
    "nonsymmetric": (SKEWED, {"diagonal": 0.1}),
    "complex": (kernels.Helmholtz(wavenumber=4.0), {"diagonal": 1.0j}),
    "weak": (COVARIANCE, {"admissibility": Weak()}),
    "tight": (COVARIANCE, {"tolerance": 1e-9}),
    "rectangular": (COVARIANCE, {"sources": np.random.default_rng(2).random((301, 3))}),
}


@pytest.fixture
def generator():
    return np.random.default_rng(1)


def batched(A):
    product = BatchedProduct.of(A.form, torch.device("cpu"))
    term = None if A.diagonal_term is None else torch.from_numpy(A.diagonal_term.astype(A.computed))
    return lambda x: product(x, term, A.dtype)


def assert_same(found, expected):
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * max(scale, 1.0))


@pytest.mark.parametrize(("kernel", "options"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 450])
def test_it_is_the_native_product(n, kernel, options, generator):
    A = H2Matrix.from_kernel(
        generator.random((n, 3)), kernel, **({"tolerance": 1e-6, "leaf_size": 16} | options)
    )
    for shape in ((A.shape[1],), (A.shape[1], 3), (A.shape[1], 0)):
        x = torch.from_numpy(generator.standard_normal(shape))
        assert_same(batched(A)(x), A @ x)
        assert_same(batched(A)(x * (1 - 2j)), A @ (x * (1 - 2j)))
    x = torch.from_numpy(generator.standard_normal(A.shape[0]))
    assert_same(batched(A.T)(x), A.product_transposed(x))


def test_single_precision_comes_back_in_single_precision(generator):
    A = H2Matrix.from_kernel(generator.random((200, 2)).astype(np.float32), COVARIANCE, tolerance=1e-4)
    x = torch.from_numpy(generator.standard_normal(200)).float()
    found = batched(A)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, A @ x)


def test_it_is_the_same_to_the_last_bit_every_time(generator):
    A = H2Matrix.from_kernel(generator.random((500, 2)), COVARIANCE, leaf_size=16)
    x = torch.from_numpy(generator.standard_normal((500, 2)))
    product = batched(A)
    first = product(x)
    assert all(torch.equal(product(x), first) for _ in range(3))
    assert torch.equal(batched(A)(x), first)


def test_sums_of_one_color_never_meet(generator):
    A = H2Matrix.from_kernel(generator.random((500, 2)), COVARIANCE, leaf_size=16)
    product = BatchedProduct.of(A.form, torch.device("cpu"))
    for buckets, padding in ((product.near, 500), (product.far, int(A.row_basis.skeleton_start[-1]))):
        for bucket in buckets:
            rows = bucket.given[bucket.given != padding]
            assert len(rows.unique()) == len(rows)


def test_vectors_of_another_length_are_refused(generator):
    A = H2Matrix.from_kernel(generator.random((20, 2)), COVARIANCE)
    with pytest.raises(ValueError, match=r"needs shape \(20,\)"):
        batched(A)(torch.ones(21))


def test_tensors_elsewhere_are_multiplied_where_they_are(generator):
    """The meta device computes shapes alone, and would refuse to be mixed with tensors on the CPU."""
    for kernel, diagonal in ((COVARIANCE, 0.1), (SKEWED, None), (COVARIANCE, None)):
        A = H2Matrix.from_kernel(generator.random((300, 2)), kernel, diagonal=diagonal or 0.0, leaf_size=16)
        x = torch.ones(300, 2, device="meta")
        for y in (A @ x, A.product_transposed(x)):
            assert y.device.type == "meta"
            assert y.shape == (300, 2)


def test_copies_elsewhere_are_shared_by_matrices_that_differ_in_their_diagonal_and_freed_on_demand(
    generator, monkeypatch
):
    made, real = [], BatchedProduct.of

    def noted(*given):
        product = real(*given)
        made.append(weakref.ref(product))
        return product

    monkeypatch.setattr(BatchedProduct, "of", noted)
    A = H2Matrix.from_kernel(generator.random((300, 2)), COVARIANCE, leaf_size=16)
    x = torch.ones(300, device="meta")
    for B in (A, A.add_diagonal(0.1), A.add_diagonal(np.arange(300.0)).add_diagonal(1.0), A.to("meta")):
        assert (B @ x).shape == (300,)
    assert len(made) == 1
    assert (A.add_diagonal(1.0j) @ x).dtype == torch.complex64
    assert len(made) == 2
    A.add_diagonal(2.0).release()
    gc.collect()
    assert [copy() for copy in made] == [None, None]
    assert (A @ x).shape == (300,)
    assert len(made) == 3
