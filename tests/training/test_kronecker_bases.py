"""Block-diagonal factors, their eigenbases and the statistics in them, against dense algebra sample by sample."""

import math

import pytest
import torch

from pipeline.training.kronecker import (
    damped_inverse,
    eigenbasis,
    multiply_left,
    multiply_right,
    normalization_gradients,
    normalization_moment,
    occurrences,
    pack_triangle,
    rotated_second_moment,
    second_moment,
    split_damping,
    turn_eigenvalues,
    unpack_triangle,
)

DOUBLE = torch.float64


def normal(*shape, rng):
    return torch.randn(*shape, generator=rng, dtype=DOUBLE)


def basis(n, rng):
    return torch.linalg.qr(normal(n, n, rng=rng))[0]


@pytest.mark.parametrize("sizes", [(5,), (2, 1, 3)])
def test_products_with_blocks_are_those_with_the_block_diagonal_matrix(sizes, rng):
    blocks = [normal(n, n, rng=rng) for n in sizes]
    X = normal(sum(sizes), 4, rng=rng)
    dense = torch.block_diag(*blocks)
    torch.testing.assert_close(multiply_left(blocks, X), dense @ X)
    torch.testing.assert_close(multiply_right(X.T, blocks), X.T @ dense)


def test_products_with_blocks_take_stacks(rng):
    blocks = [normal(3, 2, 2, rng=rng), normal(3, 1, 1, rng=rng)]
    X = normal(3, 3, 4, rng=rng)
    left, right = multiply_left(blocks, X), multiply_right(X.mT, blocks)
    for i in range(3):
        dense = torch.block_diag(*(block[i] for block in blocks))
        torch.testing.assert_close(left[i], dense @ X[i])
        torch.testing.assert_close(right[i], X[i].T @ dense)


@pytest.mark.parametrize(("n_inputs", "n_outputs", "n_samples"), [(3, 2, 1), (4, 3, 7), (1500, 1500, 3)])
def test_the_second_moment_in_a_basis_is_the_sum_of_each_sample_s_squares(
    n_inputs, n_outputs, n_samples, rng
):
    """The last case is so large that samples are taken one at a time."""
    n_positions = 2
    inputs = normal(n_inputs, n_positions, n_samples, rng=rng)
    gradients = normal(n_outputs, n_positions, n_samples, rng=rng)
    small = n_inputs < 100
    Q_A, Q_G = (basis(n, rng) if small else torch.eye(n, dtype=DOUBLE) for n in (n_inputs, n_outputs))
    found = rotated_second_moment(inputs.flatten(1), gradients.flatten(1), [Q_A], [Q_G], n_samples)
    expected = sum((Q_G.T @ gradients[..., i] @ inputs[..., i].T @ Q_A).square() for i in range(n_samples))
    torch.testing.assert_close(found, expected)


def test_eigenvalues_are_carried_over_as_the_diagonal_of_the_dense_matrix_in_the_new_basis(rng):
    S = normal(3, 4, rng=rng).square()
    old, new = ([[basis(4, rng)], [basis(3, rng)]] for _ in range(2))
    old_dense, new_dense = (torch.kron(G, A) for (A,), (G,) in (old, new))
    fisher = old_dense @ S.flatten().diag() @ old_dense.T
    expected = (new_dense.T @ fisher @ new_dense).diagonal().view(3, 4)
    torch.testing.assert_close(turn_eigenvalues(S, tuple(old), tuple(new)), expected)
    torch.testing.assert_close(turn_eigenvalues(S, tuple(old), tuple(old)), S)


@pytest.mark.parametrize("bias", [True, False])
def test_the_moment_of_a_normalization_sums_outer_products_of_each_unit_s_gradient(bias, rng):
    x, g = normal(5, 3, 2, rng=rng), normal(5, 3, 2, rng=rng)
    found = normalization_moment(normalization_gradients(x, g)[..., : 1 + bias])
    assert found.shape == (2, 1 + bias, 1 + bias)
    for unit in range(2):
        expected = torch.zeros(1 + bias, 1 + bias, dtype=DOUBLE)
        for sample in range(5):
            parts = [(x[sample, :, unit] * g[sample, :, unit]).sum(), g[sample, :, unit].sum()][: 1 + bias]
            expected += torch.outer(torch.stack(parts), torch.stack(parts))
        torch.testing.assert_close(found[unit], expected)


def test_rows_are_counted_as_often_as_they_are_looked_up_and_rows_without_use_are_zero():
    counts = occurrences(torch.tensor([[0, 2], [2, 2]]), 5, DOUBLE)
    assert counts.shape == (5, 1, 1)
    assert counts.flatten().tolist() == [1, 0, 3, 0, 0]


def test_an_eigenbasis_rebuilds_its_factor_and_has_no_eigenvalue_below_zero(rng):
    root = normal(6, 2, rng=rng)
    factor = root @ root.T  # of rank 2: four eigenvalues are zero but for rounding
    vectors, values = eigenbasis(factor)
    assert vectors.is_contiguous()
    assert values.min() >= 0
    assert values.sort().values[3] < 1e-12
    torch.testing.assert_close(vectors @ values.diag() @ vectors.T, factor)


@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_a_factor_that_is_not_finite_has_no_eigenbasis(entry):
    assert eigenbasis(torch.diag(torch.tensor([1.0, entry]))) is None


def test_a_stack_with_one_matrix_that_cannot_be_inverted_has_no_inverse():
    good = torch.tensor([2.0, 3.0]).view(2, 1, 1)
    torch.testing.assert_close(damped_inverse(good, 1.0).flatten(), torch.tensor([1 / 3, 1 / 4]))
    torch.testing.assert_close(damped_inverse(good / 10, 0.1).flatten(), torch.tensor([10 / 3, 10 / 4]))
    assert damped_inverse(torch.tensor([2.0, -1.0]).view(2, 1, 1), 1.0) is None
    assert damped_inverse(torch.tensor([2.0, math.nan]).view(2, 1, 1), 1.0) is None
    assert damped_inverse(torch.stack([torch.eye(3), -torch.eye(3)]), 0.5) is None


def test_triangles_of_a_stack_stand_one_after_the_other(rng):
    root = normal(2, 3, 3, rng=rng)
    stack = root @ root.mT
    packed = pack_triangle(stack)
    torch.testing.assert_close(packed, torch.cat([pack_triangle(matrix) for matrix in stack]))
    torch.testing.assert_close(unpack_triangle(packed, stack.shape), stack)


def test_second_moments_of_a_stack_are_those_of_each(rng):
    columns = normal(3, 4, 5, rng=rng)
    for bias in (True, False):
        found = second_moment(columns, bias=bias)
        for i in range(3):
            torch.testing.assert_close(found[i], second_moment(columns[i], bias=bias))


@pytest.mark.parametrize(("mean_A", "mean_G"), [(0.0, 1.3), (1.3, 0.0), (0.0, 0.0)])
def test_damping_is_split_evenly_where_either_trace_is_zero(mean_A, mean_G):
    assert split_damping(mean_A, mean_G, 0.09) == pytest.approx((0.3, 0.3))
