import math

import pytest
import torch
from torch.nn import functional

from pipeline.training.kronecker import (
    convolution_gradient_columns,
    convolution_input_columns,
    damped_inverse,
    linear_columns,
    pack_triangle,
    second_moment,
    split_damping,
    unpack_triangle,
)

GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (1, 1)),
    ((5, 5), (2, 2), (2, 2), (1, 1)),
    ((1, 1), (1, 1), (0, 0), (1, 1)),
    ((2, 3), (3, 1), (0, 2), (1, 2)),
    ((4, 1), (2, 3), (3, 0), (2, 1)),
]


@pytest.mark.parametrize("shape", [(1, 1, 7, 7), (3, 2, 9, 8), (0, 2, 9, 8)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_patches_are_those_of_unfold(geometry, shape, rng):
    x = torch.randn(shape, generator=rng)
    kernel_size, stride, padding, dilation = geometry
    columns = convolution_input_columns(x, *geometry)
    if not len(x):
        assert columns.shape[1] == 0
        return
    expected = functional.unfold(x, kernel_size, dilation, padding, stride)
    assert torch.equal(columns, expected.permute(1, 2, 0).flatten(1))


def test_patches_of_images_that_are_not_contiguous_are_the_same(rng):
    x = torch.randn(2, 3, 8, 8, generator=rng)
    geometry = GEOMETRIES[0]
    strided = x.to(memory_format=torch.channels_last)
    assert torch.equal(convolution_input_columns(strided, *geometry), convolution_input_columns(x, *geometry))


def test_a_convolution_is_its_weights_times_its_patches(rng):
    x, weight = torch.randn(3, 2, 7, 6, generator=rng), torch.randn(5, 2, 3, 3, generator=rng)
    output = functional.conv2d(x, weight, stride=2, padding=1)
    product = weight.flatten(1) @ convolution_input_columns(x, (3, 3), (2, 2), (1, 1), (1, 1))
    torch.testing.assert_close(product, convolution_gradient_columns(output))


def test_columns_of_a_linear_layer_go_from_position_to_position_with_samples_last(rng):
    x = torch.randn(3, 2, 5, 4, generator=rng)
    wanted = [x[sample, i, j] for i in range(2) for j in range(5) for sample in range(3)]
    assert torch.equal(linear_columns(x), torch.stack(wanted, dim=1))


@pytest.mark.parametrize("n", [0, 1, 7])
def test_a_second_moment_with_bias_is_that_of_columns_with_a_one_appended(n, rng):
    columns = linear_columns(torch.randn(n, 4, generator=rng, dtype=torch.float64))
    extended = torch.cat([columns, torch.ones(1, n, dtype=torch.float64)])
    torch.testing.assert_close(second_moment(columns, bias=True), extended @ extended.T)
    torch.testing.assert_close(second_moment(columns, bias=False), columns @ columns.T)


def random_factor(n, generator):
    root = torch.randn(n, 2 * n, generator=generator, dtype=torch.float64)
    return root @ root.T / (2 * n)


def mean_eigenvalue(factor):
    return factor.diagonal().mean().item()


def test_damping_is_split_so_that_the_product_of_its_parts_is_kept(rng):
    A, G = 1e-2 * random_factor(5, rng), 1e-3 * random_factor(3, rng)
    for_A, for_G = split_damping(mean_eigenvalue(A), mean_eigenvalue(G), 0.04)
    assert for_A * for_G == pytest.approx(0.04)
    # Each factor is damped by the same share of its mean eigenvalue.
    assert for_A / A.diagonal().mean().item() == pytest.approx(for_G / G.diagonal().mean().item())


def test_the_split_minimizes_the_traces_of_the_cross_terms(rng):
    A, G = random_factor(5, rng), 1e-3 * random_factor(3, rng)
    for_A, _ = split_damping(mean_eigenvalue(A), mean_eigenvalue(G), 0.04)
    pi = for_A / math.sqrt(0.04)
    mean_A, mean_G = A.trace() / len(A), G.trace() / len(G)
    costs = [float(mean_A / q + mean_G * q) for q in (0.9 * pi, pi, 1.1 * pi)]
    assert costs[1] == min(costs)


def test_damping_of_a_factor_that_is_zero_is_split_evenly():
    assert split_damping(1.3, 0.0, 0.09) == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("n", [1, 2, 17])
def test_a_damped_inverse_inverts_the_damped_factor_and_leaves_it_alone(n, rng):
    factor = random_factor(n, rng)
    before = factor.clone()
    identity = torch.eye(n, dtype=torch.float64)
    inverse = damped_inverse(factor, 0.1)
    torch.testing.assert_close(inverse @ (factor + 0.1 * identity), identity, rtol=0, atol=1e-10)
    assert torch.equal(inverse, inverse.T)
    assert torch.equal(factor, before)


@pytest.mark.parametrize("entry", [-1.0, math.nan, math.inf])
def test_a_factor_that_is_not_positive_definite_has_no_inverse(entry):
    assert damped_inverse(torch.diag(torch.tensor([1.0, entry, 1.0])), 0.1) is None


@pytest.mark.parametrize("n", [1, 2, 7, 33])
def test_a_packed_triangle_unpacks_to_the_same_matrix(n, rng):
    factor = random_factor(n, rng)
    packed = pack_triangle(factor)
    assert packed.shape == (n * (n + 1) // 2,)
    unpacked = unpack_triangle(packed, (n, n))
    assert torch.equal(unpacked, unpacked.T)
    assert torch.equal(unpacked.triu(), factor.triu())


def test_kronecker_solves_equal_the_dense_damped_solve(rng):
    A, G = random_factor(4, rng), random_factor(3, rng)
    gradient = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    for_A, for_G = split_damping(mean_eigenvalue(A), mean_eigenvalue(G), 0.05)
    eye_A, eye_G = (torch.eye(n, dtype=torch.float64) for n in (4, 3))
    dense = torch.kron(G + for_G * eye_G, A + for_A * eye_A)
    expected = torch.linalg.solve(dense, gradient.flatten()).view(3, 4)
    torch.testing.assert_close(damped_inverse(G, for_G) @ gradient @ damped_inverse(A, for_A), expected)
