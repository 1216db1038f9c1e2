"""Kernels against their textbook formulas, entry by entry, and the laws that they all obey."""

import json
import math

import numpy as np
import pytest
import torch
from kernel_cases import KERNEL_CASES, absolute_difference
from scipy.special import gamma, hankel1, kv

from pipeline.errors import ConfigError
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.kernels import KERNELS, Custom, Helmholtz, LaplaceSingleLayer, Matern, Yukawa
from pipeline.hmatrix.kernels.custom import Imported


@pytest.fixture
def points():
    return torch.rand(23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def matern_by_definition(r, nu):
    z = math.sqrt(2 * nu) * r
    return 2 ** (1 - nu) / gamma(nu) * z**nu * kv(nu, z)


def test_every_kernel_has_a_case():
    assert set(KERNEL_CASES) == set(KERNELS)


@pytest.mark.parametrize("name", KERNEL_CASES)
def test_blocks_of_equal_sets_are_symmetric(name, points):
    block = KERNEL_CASES[name](points, points)
    assert torch.equal(block, block.mT)


@pytest.mark.parametrize("name", KERNEL_CASES)
def test_a_batch_of_blocks_is_the_blocks_one_by_one(name, points):
    targets, sources = points[:20].reshape(4, 5, 3), points[3:].reshape(4, 5, 3)
    together = KERNEL_CASES[name](targets, sources)
    for i in range(4):
        torch.testing.assert_close(together[i], KERNEL_CASES[name](targets[i], sources[i]))
    shared = KERNEL_CASES[name](targets, sources[:1])
    torch.testing.assert_close(shared[2], KERNEL_CASES[name](targets[2], sources[0]))


@pytest.mark.parametrize("name", KERNEL_CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_follows_the_points(name, dtype, points):
    block = KERNEL_CASES[name](points.to(dtype), points.to(dtype))
    assert block.dtype == (dtype.to_complex() if KERNEL_CASES[name].is_complex else dtype)
    torch.testing.assert_close(
        block.to(torch.complex128),
        KERNEL_CASES[name](points, points).to(torch.complex128),
        rtol=1e-4 if dtype == torch.float32 else 0,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", KERNEL_CASES)
def test_empty_and_single_blocks_have_their_shape(name, points):
    for shape in [(0, 5), (5, 0), (1, 1), (0, 0)]:
        assert KERNEL_CASES[name](points[: shape[0]], points[: shape[1]]).shape == shape


@pytest.mark.parametrize("name", KERNEL_CASES)
def test_singular_kernels_and_only_they_vanish_where_points_coincide(name, points):
    diagonal = KERNEL_CASES[name].diagonal(points)
    torch.testing.assert_close(diagonal, KERNEL_CASES[name](points, points).diagonal())
    if KERNEL_CASES[name].singular:
        assert torch.all(diagonal == 0)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in KERNEL_CASES
        if name not in ("custom", "imported", "thin_plate") and not KERNEL_CASES[name].singular
    ],
)
def test_covariances_are_positive_definite(name, points):
    assert KERNEL_CASES[name].positive_definite
    assert torch.linalg.eigvalsh(KERNEL_CASES[name](points, points))[0] > 0


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, 0.3, 1.0, 3.7])
def test_matern_is_its_definition(nu, points):
    r = torch.cdist(points, points + 1).numpy() / 0.7
    block = Matern(nu=nu, length_scale=0.7)(points, points + 1)
    np.testing.assert_allclose(block, matern_by_definition(r, nu), rtol=1e-11)


def test_matern_of_any_order_is_one_at_zero_and_continuous_there():
    origin = torch.zeros(1, 1, dtype=torch.float64)
    near = torch.tensor([[0.0], [1e-300], [1e-9], [1e-4]], dtype=torch.float64)
    for nu in (0.7, 2.2, 30.0):
        values = Matern(nu=nu)(near, origin)[:, 0]
        assert values[0] == 1
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-4)


def test_matern_of_large_order_approaches_the_squared_exponential(points):
    block, limit = Matern(nu=50.0)(points, points), kernels.SquaredExponential()(points, points)
    torch.testing.assert_close(block, limit, rtol=0, atol=1 / 50)


def test_potentials_are_their_definitions(points):
    r = torch.cdist(points, points + 1)
    torch.testing.assert_close(LaplaceSingleLayer()(points, points + 1), 1 / (4 * math.pi * r))
    torch.testing.assert_close(Yukawa(decay=2.0)(points, points + 1), torch.exp(-2 * r) / (4 * math.pi * r))
    wave = torch.exp(3j * r) / (4 * math.pi * r)
    torch.testing.assert_close(Helmholtz(wavenumber=3.0)(points, points + 1), wave)
    flat, other = points[:, :2], points[:, :2] + 1
    torch.testing.assert_close(
        LaplaceSingleLayer()(flat, other), -torch.cdist(flat, other).log() / (2 * math.pi)
    )


def test_potentials_of_the_plane_are_bessel_functions(points):
    flat, other = points[:, :2], points[:, :2] + 1
    r = torch.cdist(flat, other).numpy()
    np.testing.assert_allclose(Yukawa(decay=2.0)(flat, other), kv(0, 2 * r) / (2 * np.pi), rtol=1e-13)
    for k in (3.0, 3.0 + 0.5j, 2j):
        wanted = 0.25j * hankel1(0, k * r)
        np.testing.assert_allclose(Helmholtz(wavenumber=k)(flat, other), wanted, rtol=1e-13)
    # An imaginary wavenumber is the screened potential: (i/4) H0(i x) = K0(x)/(2 pi) [DLMF 10.27.8].
    screened, wave = Yukawa(decay=2.0)(flat, other), Helmholtz(wavenumber=2j)(flat, other)
    torch.testing.assert_close(wave, screened.to(torch.complex128), rtol=1e-12, atol=0)


def test_waves_of_complex_wavenumber_decay(points):
    r = torch.cdist(points, points + 1)
    wave = torch.exp(1j * (3.0 + 0.5j) * r) / (4 * math.pi * r)
    torch.testing.assert_close(Helmholtz(wavenumber=3.0 + 0.5j)(points, points + 1), wave)
    stored = json.loads(json.dumps(Helmholtz(wavenumber=3.0 + 0.5j).to_dict()))
    assert kernels.from_dict(stored) == Helmholtz(wavenumber=3.0 + 0.5j)
    for wavenumber in (3.0 - 0.5j, -1.0 + 1j, 0j, complex(math.nan, 1)):
        with pytest.raises(ValueError, match="real and imaginary parts >= 0"):
            Helmholtz(wavenumber=wavenumber)


@pytest.mark.parametrize("kernel", [Helmholtz(), Yukawa(decay=2.0), LaplaceSingleLayer()])
@pytest.mark.parametrize("dimension", [1, 4])
def test_potentials_are_refused_where_they_have_no_formula(kernel, dimension):
    line = torch.rand(5, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=f"dimensions, not in {dimension}"):
        kernel(line, line)
    with pytest.raises(ValueError, match=f"dimensions, not in {dimension}"):
        H2Matrix.from_kernel(line, kernel)


def test_what_is_advised_for_yukawa_on_a_line_solves_its_equation():
    # u'' = decay² u away from the source, and u' jumps by -1 there.
    kernel, origin, h = Matern(length_scale=0.5, variance=0.25), torch.zeros(1, 1, dtype=torch.float64), 1e-4
    with pytest.raises(ValueError, match=r"it is Matern\(length_scale=0.5, variance=0.25\)"):
        Yukawa(decay=2.0)(origin, origin)
    x = torch.tensor([[0.3 - h], [0.3], [0.3 + h], [h], [0.0]], dtype=torch.float64)
    u = kernel(x, origin)[:, 0]
    assert float(u[0] - 2 * u[1] + u[2]) / h**2 == pytest.approx(4 * float(u[1]), rel=1e-6)
    assert 2 * float(u[3] - u[4]) / h == pytest.approx(-1, rel=1e-3)


FAR = [  # kernels with a length of 100 m, 4,500 km from the origin
    Matern(nu=0.5, length_scale=100.0),
    Matern(nu=0.8, length_scale=(100.0, 80.0, 120.0)),
    kernels.SquaredExponential(length_scale=100.0),
    kernels.RationalQuadratic(length_scale=100.0, alpha=1.5),
    Helmholtz(wavenumber=0.01),
    Yukawa(decay=0.01),
]


def far_away(n, dimension, seed=0):
    generator = np.random.default_rng(seed)
    return (4.5e6 + generator.uniform(0, 400, (n, dimension))).astype(np.float32)


@pytest.mark.parametrize("kernel", FAR)
def test_single_precision_far_from_the_origin_costs_no_digits(kernel):
    points = far_away(60, 3)
    exact, narrow = kernel(points.astype(np.float64), points.astype(np.float64)), kernel(points, points)
    np.testing.assert_allclose(narrow, exact, rtol=1e-5)


@pytest.mark.parametrize("dimension", [5, 30])
def test_many_coordinates_of_single_precision_far_from_the_origin_cost_no_digits(dimension):
    points, kernel = far_away(60, dimension), Matern(nu=1.5, length_scale=100.0)
    np.testing.assert_allclose(
        kernel(points, points), kernel(points.astype(np.float64), points.astype(np.float64)), rtol=1e-5
    )


@pytest.mark.parametrize("kernel", FAR)
def test_matrices_of_single_precision_far_from_the_origin_are_the_dense_ones(kernel):
    points = far_away(900, 3)
    dense = kernel(points.astype(np.float64), points.astype(np.float64)) + 3 * np.eye(900)
    A = H2Matrix.from_kernel(points, kernel, diagonal=3.0, tolerance=1e-5)
    x = np.random.default_rng(1).standard_normal(900)
    assert np.linalg.norm(A @ x - dense @ x) < 2e-5 * np.linalg.norm(dense @ x)
    assert np.linalg.norm(dense @ A.factorize(1e-6).solve(x) - x) < 1e-4 * np.linalg.norm(x)


def test_the_laplace_kernel_is_harmonic():
    x, h = torch.tensor([[0.3, 0.4, 1.2]], dtype=torch.float64), 1e-3
    steps = h * torch.eye(3, dtype=torch.float64)
    kernel, origin = LaplaceSingleLayer(), torch.zeros(1, 3, dtype=torch.float64)
    around = kernel(torch.cat([x + steps, x - steps]), origin).sum()
    laplacian = (around - 6 * kernel(x, origin).item()) / h**2
    assert abs(laplacian) < 1e-6  # truncation h² |k''''| ~ 1e-7, rounding 1e-16 / h² = 1e-10


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 40])
def test_distances_of_close_points_keep_all_digits(dimension):
    x = torch.full((1, dimension), 1e3, dtype=torch.float64)
    step = torch.full((1, dimension), 2.0**-30, dtype=torch.float64)
    expected = 2.0**-30 * math.sqrt(dimension)
    assert kernels.distances(x, x + step).item() == pytest.approx(expected, rel=1e-14)
    assert kernels.squared_distances(x, x).item() == 0


def test_distances_agree_in_low_and_high_dimension(points):
    padded = torch.cat([points, torch.zeros(23, 4, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(
        kernels.squared_distances(points, points), kernels.squared_distances(padded, padded)
    )


def test_a_length_scale_per_coordinate_stretches_the_points(points):
    stretched = points / torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    block = Matern(length_scale=(1.0, 2.0, 0.5))(points, points)
    torch.testing.assert_close(block, Matern()(stretched, stretched))
    assert kernels.build("matern", length_scale=[1, 2, 0.5]) == Matern(length_scale=(1.0, 2.0, 0.5))


def test_sums_products_and_multiples_of_kernels_are_kernels(points):
    a, b = Matern(length_scale=0.2), Helmholtz(wavenumber=2.0)
    ka, kb = a(points, points), b(points, points)
    torch.testing.assert_close((a + b)(points, points), ka + kb)
    torch.testing.assert_close((a * b)(points, points), ka * kb)
    torch.testing.assert_close((2.0 * a - a * 0.5)(points, points), 1.5 * ka)
    torch.testing.assert_close(((1 + 2j) * a)(points, points), (1 + 2j) * ka)


def test_kernels_are_divided_summed_and_take_numpys_numbers(points):
    k = Matern(length_scale=0.2)
    block = k(points, points)
    torch.testing.assert_close((k / 2)(points, points), block / 2)
    torch.testing.assert_close((k / 2j)(points, points), block / 2j)
    torch.testing.assert_close(sum([k, k, k])(points, points), 3 * block)
    for two in (np.float64(2), np.float32(2), np.int64(2), np.complex64(2)):
        torch.testing.assert_close((two * k)(points, points).real, 2 * block)
        torch.testing.assert_close((k * two)(points, points).real, 2 * block)
    with pytest.raises(ValueError, match="finite factors, not nan"):
        math.nan * k
    with pytest.raises(TypeError):
        1 + k
    with pytest.raises(ZeroDivisionError):
        k / 0
    assert kernels.Swapped(Yukawa()).singular


@pytest.mark.parametrize("name", sorted(set(KERNEL_CASES) - {"custom", "imported"}))
def test_arrays_give_arrays_and_are_not_mixed_with_tensors(name, points):
    block = KERNEL_CASES[name](points.numpy(), points.numpy())
    assert isinstance(block, np.ndarray)
    np.testing.assert_array_equal(block, KERNEL_CASES[name](points, points))
    with pytest.raises(TypeError, match="two tensors or two arrays"):
        KERNEL_CASES[name](points, points.numpy())


def test_combinations_know_what_they_are():
    a, b, wave = Matern(), kernels.SquaredExponential(), Helmholtz()
    assert (a + b).positive_definite
    assert (a * b).positive_definite
    assert not (-1.0 * a).positive_definite
    assert not (a - b).positive_definite
    assert (a + wave).is_complex
    assert (1j * a).is_complex
    assert (a + Yukawa()).singular
    assert not (a + Custom(absolute_difference)).symmetric


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="'mattern' is unknown \\(nearest: 'matern'\\)"):
        kernels.build("mattern")


def test_what_is_not_usable_as_given_is_a_value_error_as_in_numpy(points):
    with pytest.raises(ValueError, match="'mattern' is unknown") as found:
        kernels.build("mattern")
    assert isinstance(found.value, ConfigError)
    # A sum tells what a function of one's own is told alone, once.
    with pytest.raises(ConfigError, match=r"^kernel statistics:mean: raised .* correct the function$"):
        kernels.require_usable(Matern() + Imported("statistics:mean"), points.numpy())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("matern", {"nu": -1.0}, "nu must be positive and finite, not -1.0"),
        ("matern", {"nu": 51.0}, "take its limit, the squared exponential"),
        ("matern", {"length_scale": [1.0, 0.0]}, "length_scale must be positive"),
        ("yukawa", {"decay": math.nan}, "decay must be positive"),
        ("helmholtz", {"frequency": 3.0}, "kernel helmholtz: .*frequency"),
    ],
)
def test_bad_parameters_are_refused_with_a_sentence(name, parameters, message):
    with pytest.raises(ConfigError, match=message):
        kernels.build(name, **parameters)


def test_kernels_refuse_points_that_do_not_fit(points):
    with pytest.raises(ValueError, match="3 and 2 coordinates"):
        Matern()(points, points[:, :2])
    with pytest.raises(ValueError, match="2 length scales"):
        Matern(length_scale=(1.0, 2.0))(points, points)


def test_parameters_that_are_no_numbers_are_refused_by_name():
    for parameters in (
        {"length_scale": "long"},
        {"length_scale": None},
        {"nu": "half"},
        {"length_scale": ["a"]},
    ):
        with pytest.raises(TypeError, match=f"{next(iter(parameters))} must be a positive number, not"):
            Matern(**parameters)
    with pytest.raises(TypeError, match="function must be a function of two point tensors, not None"):
        Custom(None)


def test_a_module_of_kernels_that_ends_the_program_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ending_kernels.py").write_text("raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be imported \(it ends the program\)"):
        Imported("ending_kernels:bump")
