"""Batches are as precise as their type whatever the caller has set for networks, and his settings stay."""

import pytest
import torch
from devices import BATCHES

from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.batched import BatchedProduct
from pipeline.hmatrix.batched.precision import full_precision
from pipeline.hmatrix.compression import compress_kernel
from pipeline.hmatrix.factor import factorize

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.2)
PRODUCTS = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul


@pytest.fixture(params=["highest", "high", "medium"])
def setting(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def test_products_are_exact_within_and_the_settings_return(setting):
    before = [products.fp32_precision for products in PRODUCTS]
    with full_precision():
        assert [products.fp32_precision for products in PRODUCTS] == ["ieee", "ieee"]
    assert [products.fp32_precision for products in PRODUCTS] == before
    assert torch.get_float32_matmul_precision() == setting


def test_the_settings_return_after_a_failure(setting):
    before = [products.fp32_precision for products in PRODUCTS]
    with pytest.raises(RuntimeError, match="within"), full_precision():
        raise RuntimeError("within")
    assert [products.fp32_precision for products in PRODUCTS] == before
    assert torch.get_float32_matmul_precision() == setting


def test_the_settings_return_when_the_last_of_several_has_done(setting):
    before = [products.fp32_precision for products in PRODUCTS]
    first, second = full_precision(), full_precision()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert [products.fp32_precision for products in PRODUCTS] == ["ieee", "ieee"]
    second.__exit__(None, None, None)
    assert [products.fp32_precision for products in PRODUCTS] == before
    assert torch.get_float32_matmul_precision() == setting


def test_autocasting_changes_nothing_within_and_goes_on_afterwards():
    x = torch.ones(3, 3)
    with torch.autocast("cpu"):
        with full_precision():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16


def test_compression_factorization_solution_and_product_are_the_same_bit_by_bit_under_any_setting(setting):
    """From a tolerance of 1e-3 on, factors are computed in single precision, which the settings are about."""
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    b = torch.ones(500, device=BATCHES)

    def everything():
        A = compress_kernel(
            points, COVARIANCE, diagonal=0.1, tolerance=1e-4, sources=None, leaf_size=16, admissibility=None,
            device=BATCHES,
        )  # fmt: skip
        F = factorize(A, tolerance=1e-2, device=BATCHES)
        return F.solve(b), F.multiply_root(b), BatchedProduct.of(A, BATCHES)(b, None, A.dtype)

    with full_precision():
        expected = everything()
    with torch.autocast(BATCHES.type):
        found = everything()
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_the_default_solution_is_as_accurate_while_autocasting():
    points = torch.rand(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), device="cpu")
    A = H2Matrix.from_kernel(points.to(BATCHES), COVARIANCE, diagonal=0.1)
    b = torch.ones(500, dtype=torch.float64, device=BATCHES)
    with torch.autocast(BATCHES.type):
        x, _ = A.solve(b, 1e-8)
    assert float((A @ x - b).norm() / b.norm()) <= 1e-8
