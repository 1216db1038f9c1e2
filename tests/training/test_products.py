import pytest
import torch

from pipeline.training import products
from pipeline.training.products import times_own_transpose, times_transpose

# Rounding of a sum of k products, in any order.
EPS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@pytest.fixture(params=["oneDNN", "plain"])
def engine(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(products, "_ONEDNN", None)
    elif products._ONEDNN is None:
        pytest.skip("torch without oneDNN")


def assert_is_product(found, a, b):
    exact = a.double() @ b.double().mT
    bound = (a.shape[-1] + 1) * EPS[a.dtype] * (a.double().abs() @ b.double().abs().mT)
    # The reference itself is rounded in double precision.
    assert bool(
        ((found.double() - exact).abs() <= bound * (1 + 1e-6) + bound * (a.dtype == torch.float64)).all()
    )


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(0, 3, 2), (3, 0, 2), (3, 2, 0), (1, 1, 1), (5, 7, 3), (17, 33, 65)]
)
def test_products_with_transposes_are_those_of_double_precision(engine, m, n, k, dtype, rng):
    a, b = (torch.randn(rows, k, generator=rng, dtype=dtype) for rows in (m, n))
    assert_is_product(times_transpose(a, b), a, b)


@pytest.mark.parametrize("dtype", EPS)
def test_products_take_parts_and_transposes_of_larger_matrices(engine, dtype, rng):
    x, y = (torch.randn(40, 50, generator=rng, dtype=dtype) for _ in range(2))
    for a, b in [(x[3:17, 5:30], y[:9, 5:30]), (x[:, :7].T, y[:, 9:12].T), (x.T, y.T), (x, y[::2])]:
        assert_is_product(times_transpose(a, b), a, b)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("n_columns", [0, 1, 511, 512, 513])
def test_products_with_own_transposes_are_symmetric_products(engine, n_columns, dtype, rng):
    for n in (0, 1, 95, 96, 97, 191, 193, 289):
        a = torch.randn(n, n_columns, generator=rng, dtype=dtype)
        product = times_own_transpose(a)
        assert product.shape == (n, n)
        assert_is_product(product, a, a)


@pytest.mark.parametrize("n_columns", [3, 600])
def test_a_product_is_written_into_a_part_of_a_larger_matrix_and_nowhere_else(engine, n_columns, rng):
    a = torch.randn(200, n_columns, generator=rng)
    whole = torch.full((202, 202), 7.0)
    times_own_transpose(a, out=whole[1:201, 1:201])
    assert torch.equal(whole[1:201, 1:201], times_own_transpose(a))
    whole[1:201, 1:201] = 7.0
    assert bool((whole == 7.0).all())


def test_stacks_are_multiplied_one_by_one(engine, rng):
    stack = torch.randn(3, 100, 600, generator=rng)
    for product, a in zip(times_own_transpose(stack), stack, strict=True):
        assert_is_product(product, a, a)


def test_a_private_product_that_has_changed_is_not_used():
    def one_argument_fewer(a, b, bias, kind, scalars):
        raise AssertionError

    def another_meaning(a, b, *_options):
        return a + b

    def another_schema(*_arguments):
        raise RuntimeError("expected at most 5 argument(s) but received 6")

    for product in (None, one_argument_fewer, another_meaning, another_schema):
        assert products._if_works(product) is None

    def same(a, b, *_options):
        return a @ b.mT

    assert products._if_works(same) is same
