from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import H2Matrix, Strong, Weak, kernels

N = 800


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.factor._DENSE_END", 60)


def points_of(name, n=N, seed=0):
    generator = np.random.default_rng(seed)
    if name == "square":
        return generator.random((n, 2))
    if name == "cube":
        return generator.random((n, 3))
    if name == "line":
        return generator.random((n, 1))
    centers = generator.random((8, 2))
    scatter = 10 ** generator.uniform(-5, -1, (n, 1)) * generator.standard_normal((n, 2))
    return centers[generator.integers(0, 8, n)] + scatter


def compressed(points, kernel, diagonal, tolerance=1e-9, **options):
    return H2Matrix.from_kernel(
        points, kernel, diagonal=diagonal, tolerance=tolerance, leaf_size=16, **options
    )


def dense(points, kernel, diagonal):
    x = torch.from_numpy(points)
    return kernel(x, x).numpy() + np.diag(np.broadcast_to(diagonal, len(points)))


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("name", ["square", "cube", "line", "clusters"])
@pytest.mark.parametrize("kind", ["cholesky", "ldlt", "lu"])
def test_solve_and_determinant_match_the_dense_ones(name, kind):
    points, kernel = points_of(name), kernels.Matern(nu=0.5, length_scale=0.2)
    F = compressed(points, kernel, 0.1).factorize(1e-10, kind)
    matrix = dense(points, kernel, 0.1)
    b = np.random.default_rng(1).standard_normal((N, 3))
    assert relative(matrix @ F.solve(b), b) <= 1e-6
    assert relative(matrix @ F.solve(b[:, 0]), b[:, 0]) <= 1e-6
    np.testing.assert_allclose(F.logdet(), np.linalg.slogdet(matrix)[1], rtol=1e-8)
    assert F.kind == kind


@pytest.mark.parametrize("rule", [Strong(), Weak()])
def test_both_admissibilities_factorize(rule):
    points, kernel = points_of("line"), kernels.Matern(nu=1.5, length_scale=0.05)
    F = compressed(points, kernel, 0.1, admissibility=rule).factorize(1e-10)
    matrix = dense(points, kernel, 0.1)
    b = np.random.default_rng(2).standard_normal(N)
    assert relative(matrix @ F.solve(b), b) <= 1e-6
    np.testing.assert_allclose(F.logdet(), np.linalg.slogdet(matrix)[1], rtol=1e-8)


def test_complex_symmetric_and_nonsymmetric_matrices_factorize():
    points = points_of("cube")
    b = np.random.default_rng(3).standard_normal(N)
    wave = kernels.Helmholtz(wavenumber=3.0)
    F = compressed(points, wave, 30.0, 1e-8).factorize(1e-9)
    assert F.kind == "ldlt"
    matrix = dense(points, wave, 30.0)
    assert relative(matrix @ F.solve(b), b) <= 1e-6
    sign, size = np.linalg.slogdet(matrix)
    np.testing.assert_allclose(F.slogdet()[1], size, rtol=1e-8)
    np.testing.assert_allclose(F.slogdet()[0], sign, atol=1e-5)

    drift = kernels.Custom(lambda x, y: torch.exp(-torch.cdist(x, y) / 0.3) * (1 + x[..., :1]))
    F = compressed(points, drift, 5.0, 1e-6).factorize(1e-7)
    assert F.kind == "lu"
    matrix = dense(points, drift, 5.0)
    assert relative(matrix @ F.solve(b), b) <= 1e-4
    assert relative(matrix.T @ F.solve_transposed(b), b) <= 1e-4


def test_the_solution_does_not_depend_on_the_order_of_the_points():
    points, kernel = points_of("square"), kernels.Matern(nu=0.5)
    order = np.random.default_rng(4).permutation(N)
    b = np.random.default_rng(5).standard_normal(N)
    first = compressed(points, kernel, 0.1).factorize(1e-10).solve(b)
    second = compressed(points[order], kernel, 0.1).factorize(1e-10).solve(b[order])
    assert relative(second, first[order]) <= 1e-6


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33])
def test_awkward_sizes(n):
    points, kernel = points_of("square", n), kernels.Matern(nu=0.5)
    F = compressed(points, kernel, 0.5).factorize()
    matrix = dense(points, kernel, 0.5)
    b = np.arange(1.0, n + 1)
    np.testing.assert_allclose(F.solve(b), np.linalg.solve(matrix, b), rtol=1e-8)
    np.testing.assert_allclose(F.logdet(), np.linalg.slogdet(matrix)[1], atol=1e-8)
    assert F.solve(np.zeros((n, 0))).shape == (n, 0)


def test_roots_multiply_to_the_matrix_and_samples_have_its_covariance():
    points, kernel = points_of("square"), kernels.Matern(nu=0.5, length_scale=0.3)
    F = compressed(points, kernel, 0.1).factorize(1e-9)
    matrix = dense(points, kernel, 0.1)
    root = F.multiply_root(np.eye(N))
    assert relative(root @ root.T, matrix) <= 1e-6
    np.testing.assert_allclose(F.multiply_root_transposed(np.eye(N)), root.T, atol=1e-12)
    n_samples = 4000
    samples = F.sample(torch.Generator().manual_seed(0), n_samples).numpy()
    assert samples.shape == (N, n_samples)
    covariance = samples[:50] @ samples[:50].T / n_samples
    # An entry of the sample covariance has standard deviation at most sqrt(2) 1.1 / sqrt(n_samples).
    assert np.abs(covariance - matrix[:50, :50]).max() <= 5 * 1.1 * np.sqrt(2 / n_samples)
    assert F.sample(torch.Generator().manual_seed(0)).shape == (N,)


def test_samples_are_drawn_by_generators_of_torch_and_of_numpy():
    F = compressed(points_of("square", 200), kernels.Matern(), 0.1).factorize()
    sample = F.sample(np.random.default_rng(0), 3)
    normal = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 3)))
    assert torch.equal(sample, F.multiply_root(normal))
    for wrong in (0, None, np.random):
        with pytest.raises(TypeError, match=r"sample needs a generator, such as torch\.Generator"):
            F.sample(wrong)


def test_entries_that_are_nan_past_every_check_are_named_by_the_factorization():
    A = compressed(points_of("square", 100), kernels.Matern(), 0.1)
    A = H2Matrix(replace(A.form, kernel=kernels.Custom(lambda x, y: torch.full((len(x), len(y)), torch.nan))))
    for kind in ("lu", "cholesky"):
        with pytest.raises(ConvergenceError, match=r"met the pivot nan .* entries there are NaN"):
            A.factorize(kind=kind)


def test_duplicates_without_a_nugget_name_the_pivot_and_what_to_do():
    points = points_of("square")
    points[-3:] = points[:3]
    A = compressed(points, kernels.Matern(nu=0.5), 0.0, 1e-6)
    with pytest.raises(ConvergenceError, match="nugget"):
        A.factorize()
    F = A.add_diagonal(1e-2).factorize()
    b = np.ones(N)
    assert relative(dense(points, kernels.Matern(nu=0.5), 1e-2) @ F.solve(b), b) <= 1e-2


def test_an_indefinite_matrix_fails_cholesky_and_passes_ldlt():
    points, kernel = points_of("square"), kernels.Matern(nu=0.5, length_scale=0.2)
    A = compressed(points, kernel, 0.0).add_diagonal(-5.0)
    with pytest.raises(ConvergenceError, match='factorize it with kind="ldlt"'):
        A.factorize(kind="cholesky")
    F = A.factorize(1e-10, kind="ldlt")
    matrix = dense(points, kernel, -5.0)
    b = np.random.default_rng(6).standard_normal(N)
    assert relative(matrix @ F.solve(b), b) <= 1e-5
    sign, size = np.linalg.slogdet(matrix)
    assert F.slogdet()[0] == sign
    np.testing.assert_allclose(F.slogdet()[1], size, rtol=1e-8)


def test_a_loose_factorization_that_breaks_down_is_tightened_and_says_so():
    points, kernel = points_of("square", 2400), kernels.Matern(nu=2.5, length_scale=0.5)
    A = compressed(points, kernel, 1e-3, 1e-6)
    F = A.factorize(0.3)
    assert F.used_tolerance < 0.3
    assert "so it was repeated at" in F.notes[0]
    assert "nothing needs to be done" in F.notes[0]


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_solve_reaches_the_tolerance_with_the_compressed_matrix(tolerance):
    points, kernel = points_of("clusters"), kernels.Matern(nu=0.5, length_scale=0.2)
    A = compressed(points, kernel, 1e-2, 1e-9)
    b = np.random.default_rng(7).standard_normal((N, 2))
    x, info = A.solve(b, tolerance)
    assert info.method == "CG"
    assert info.iterations <= 30
    assert relative(A @ x, b) <= tolerance
    wave = compressed(points_of("cube"), kernels.Helmholtz(wavenumber=3.0), 30.0, 1e-9)
    x, info = wave.solve(torch.ones(N, dtype=torch.complex128), tolerance)
    assert info.method == "GMRES"
    assert relative((wave @ x).numpy(), np.ones(N)) <= tolerance


@pytest.mark.parametrize("nu", [0.5, 2.5])
def test_points_that_fill_a_volume_are_solved_by_a_looser_preconditioner(nu):
    points, kernel = points_of("cube"), kernels.Matern(nu=nu, length_scale=0.3)
    A = H2Matrix.from_kernel(points, kernel, diagonal=1e-2, tolerance=1e-8)
    b = np.random.default_rng(7).standard_normal(N)
    x, _ = A.solve(b, 1e-7)
    assert A.rows.fills_space
    assert relative(dense(points, kernel, 1e-2) @ x, b) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "wave"), [("cholesky", False), ("ldlt", False), ("lu", False), ("ldlt", True), ("lu", True)]
)
def test_loose_factorizations_compute_in_single_precision_as_well_as_in_double(kind, wave, monkeypatch):
    kernel = kernels.Helmholtz(wavenumber=8.0) if wave else kernels.Matern(nu=0.5, length_scale=0.2)
    points = points_of("cube")
    A = compressed(points, kernel, 30.0 if wave else 0.1)
    b = np.random.default_rng(9).standard_normal(N).astype(A.dtype)
    single = A.factorize(1e-3, kind)
    monkeypatch.setattr("pipeline.hmatrix.rounding.COMPUTED_FROM", 1.0)
    double = A.factorize(1e-3, kind)
    assert single.computed == ("complex64" if wave else "float32")
    assert double.computed == ("complex128" if wave else "float64")
    # What the tolerance allows is far more than what rounding does.
    assert relative(A @ single.solve(b), b) <= 1.5 * relative(A @ double.solve(b), b) + 1e-5
    np.testing.assert_allclose(single.slogdet()[1], double.slogdet()[1], rtol=1e-4)
    iterations = [A.solve(b, 1e-8, factorization=F)[1].iterations for F in (single, double)]
    assert iterations[0] <= iterations[1] + 1


def test_double_precision_takes_over_where_single_meets_a_pivot_that_rounding_spoils(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.factor._DENSE_END", 400)
    points = np.repeat(points_of("square", 200), 2, axis=0)
    kernel, nugget = kernels.Matern(nu=0.5, length_scale=0.2), 1e-8  # below single precision
    F = compressed(points, kernel, nugget).factorize(1e-3, checked=False)
    assert (F.computed, F.used_tolerance, F.notes) == ("float64", 1e-3, ())
    matrix = dense(points, kernel, nugget)
    np.testing.assert_allclose(F.logdet(), np.linalg.slogdet(matrix)[1], rtol=1e-6)


def test_a_preconditioner_that_proves_too_loose_is_replaced_and_the_notes_say_so():
    points, kernel = points_of("square", 1300), kernels.Matern(nu=0.5, length_scale=0.2)
    A = H2Matrix.from_kernel(points, kernel, diagonal=1e-2)
    square = A @ A  # the loose factorization leaves a residual of 0.4 where 1e-8 is wanted
    b = np.random.default_rng(8).standard_normal(1300)
    x, info = square.solve(b, 1e-8)
    assert relative(square @ x, b) <= 1e-8
    assert "replaced by a tighter one" in info.notes[0]
    with pytest.raises(ConvergenceError):  # a factorization that is given is kept
        square.solve(b, 1e-8, factorization=square.factorize(1e-3, checked=False), max_iterations=40)


def test_factorization_bytes_grow_linearly():
    kernel = kernels.Matern(nu=0.5, length_scale=0.1)
    small, large = (
        H2Matrix.from_kernel(points_of("square", n), kernel, diagonal=1.0, tolerance=1e-4).factorize().n_bytes
        for n in (4096, 16384)
    )
    assert large / small < 4.6


def test_tables_tell_levels_from_leaves_to_the_dense_end():
    F = compressed(points_of("square"), kernels.Matern(), 0.1).factorize()
    table = F.level_table()
    assert table[0]["unknowns"] == N
    assert table[1]["unknowns"] == table[0]["skeletons"]
    assert sum(row["bytes"] for row in table) == F.n_bytes


def test_kinds_that_do_not_fit_are_refused():
    points = points_of("square", 100)
    A = compressed(points, kernels.Matern(), 0.1)
    with pytest.raises(ConfigError, match="cholesky"):
        A.factorize(kind="qr")
    drift = compressed(points, kernels.Custom(lambda x, y: torch.cdist(x, y) + x[..., :1]), 1.0)
    with pytest.raises(ConfigError, match="symmetric"):
        drift.factorize(kind="cholesky")
    wave = compressed(points_of("cube", 100), kernels.Helmholtz(), 1.0)
    with pytest.raises(ConfigError, match="real"):
        wave.factorize(kind="cholesky")
    with pytest.raises(ValueError, match="square"):
        H2Matrix.from_kernel(points, kernels.Matern(), sources=points).factorize()
    with pytest.raises(ValueError, match="root"):
        A.factorize(kind="lu").multiply_root(np.ones(100))
    with pytest.raises(ValueError, match="only a Cholesky factorization has a root, and this is lu"):
        A.factorize(kind="lu").multiply_root_transposed(np.ones(100))


@pytest.mark.parametrize("scale", [1e-60, 1e-22, 1e22, 1e60])
def test_matrices_beyond_single_precision_are_solved_in_double(scale):
    points, kernel = points_of("square"), kernels.Matern(nu=0.5, length_scale=0.2)
    b = np.random.default_rng(1).standard_normal(N)
    A = compressed(points, scale * kernel, 0.1 * scale, 1e-6)
    x, info = A.solve(b)
    assert info.iterations <= 10
    matrix = dense(points, kernel, 0.1)
    lost = 1e-6 * np.linalg.norm(matrix)  # in the Frobenius norm, where no eigenvalue is below the nugget
    assert relative(matrix @ (scale * x), b) <= lost / 0.1
    assert A.factorize(1e-2).computed == np.float64


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_parts_decides_every_bit_and_that_of_threads_none(threads):
    points, kernel = points_of("square", 2400), kernels.Matern(nu=0.5, length_scale=0.2)
    A = compressed(points, kernel, 0.1, 1e-6)
    b = np.random.default_rng(10).standard_normal(2400)
    found = {}
    for n_threads in (1, 3):
        threads(n_threads)
        F = A.factorize(parts=3)
        found[n_threads] = F.solve(b), F.logdet(), F.sample(np.random.default_rng(0)).numpy()
    for one, three in zip(found[1], found[3], strict=True):
        assert np.array_equal(one, three)
    default = A.factorize()
    assert default.n_parts == 3
    assert np.array_equal(default.solve(b), found[1][0])
    threads(1)
    alone = A.factorize()
    assert alone.n_parts == 1
    np.testing.assert_allclose(alone.logdet(), found[1][1], rtol=1e-9)
    residuals = [relative(dense(points, kernel, 0.1) @ x, b) for x in (alone.solve(b), found[1][0])]
    assert residuals[1] <= 1.5 * residuals[0]


def test_python_functions_are_called_by_one_thread_and_the_notes_say_so(threads):
    threads(3)
    points, kernel = points_of("square", 400), kernels.Matern(nu=0.5)
    function = kernels.Custom(lambda x, y: kernel(x, y), symmetric=True, positive_definite=True)
    A = compressed(points, function, 0.1, 1e-6)
    F = A.factorize()
    assert F.n_parts == 1
    assert "factorized by one thread" in F.notes[0]
    assert A.factorize(parts=2).n_parts == 2
    assert compressed(points, kernel, 0.1, 1e-6).factorize().notes == ()


def test_a_number_of_parts_that_is_none_is_refused():
    A = compressed(points_of("square", 100), kernels.Matern(), 0.1)
    with pytest.raises(ValueError, match="parts must be at least 1"):
        A.factorize(parts=0)
    with pytest.raises(TypeError, match="parts must be a whole number"):
        A.factorize(parts=2.5)
