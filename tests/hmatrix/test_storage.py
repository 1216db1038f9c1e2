import os

import numpy as np
import pytest
import torch
from json_files import mean_the_same
from warm_starts import run_python

from pipeline.errors import ArtifactError, ConfigError
from pipeline.hmatrix import H2Matrix, Weak, kernels
from pipeline.hmatrix.validation import require_sound

CASES = {
    "symmetric": {"kernel": kernels.Matern(nu=0.5) + 0.5 * kernels.SquaredExponential(), "diagonal": 0.1},
    "complex": {"kernel": kernels.Helmholtz(wavenumber=2.0), "diagonal": 1.0 + 1.0j},
    "weak": {"kernel": kernels.Matern(nu=1.5), "admissibility": Weak()},
    "double": {"kernel": kernels.Yukawa(), "diagonal": 30.0, "tolerance": 1e-9},
}


@pytest.fixture
def points():
    return np.random.default_rng(0).random((700, 3))


@pytest.mark.parametrize("name", CASES)
def test_a_matrix_comes_back_as_it_was(name, points, tmp_path):
    A = H2Matrix.from_kernel(points, leaf_size=32, **CASES[name])
    A.save(tmp_path / "matrix")
    B = H2Matrix.load(tmp_path / "matrix")
    x = np.random.default_rng(1).standard_normal((700, 2))
    np.testing.assert_array_equal(B @ x, A @ x)
    assert B.kernel == A.kernel
    assert (B.shape, B.n_bytes, B.dtype, B.tolerance) == (A.shape, A.n_bytes, A.dtype, A.tolerance)
    assert B.is_square
    np.testing.assert_allclose(B.factorize().solve(x), A.factorize().solve(x))


def test_a_rectangular_matrix_comes_back(points, tmp_path):
    A = H2Matrix.from_kernel(points, kernels.Matern(), sources=points[:50] + 0.1, leaf_size=32)
    A.save(tmp_path)
    x = np.ones(50)
    np.testing.assert_array_equal(H2Matrix.load(tmp_path) @ x, A @ x)


def test_another_process_reads_it(points, tmp_path):
    A = H2Matrix.from_kernel(points, kernels.Matern(), diagonal=0.1)
    A.save(tmp_path)
    program = (
        "import sys, numpy as np; from pipeline.hmatrix import H2Matrix; "
        "print(repr(float((H2Matrix.load(sys.argv[1]) @ np.ones(700)).sum())))"
    )
    (tmp_path / "program.py").write_text(program)
    done = run_python(["program.py", str(tmp_path)], folder=tmp_path, environment=os.environ)
    assert done.returncode == 0, done.stdout
    assert float(done.stdout) == float((A @ np.ones(700)).sum())


def test_a_folder_without_a_matrix_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"h2matrix\.json"):
        H2Matrix.load(tmp_path)


def test_another_version_is_refused(points, tmp_path):
    H2Matrix.from_kernel(points[:50], kernels.Matern()).save(tmp_path)
    description = tmp_path / "h2matrix.json"
    description.write_text(description.read_text().replace('"version": 2', '"version": 99'))
    with pytest.raises(ArtifactError, match="version 99"):
        H2Matrix.load(tmp_path)


def test_a_python_function_cannot_be_stored(points, tmp_path):
    A = H2Matrix.from_kernel(points[:50], kernels.Custom(lambda x, y: torch.cdist(x, y), symmetric=True))
    with pytest.raises(ConfigError, match="Python function"):
        A.save(tmp_path)


def test_a_product_without_kernel_comes_back(points, tmp_path):
    A = H2Matrix.from_kernel(points, kernels.Matern(nu=0.5), diagonal=1.0, tolerance=1e-4, leaf_size=32)
    square = A @ A
    square.save(tmp_path)
    x = np.ones(700)
    B = H2Matrix.load(tmp_path)
    np.testing.assert_array_equal(B @ x, square @ x)
    np.testing.assert_array_equal(B.factorize().solve(x), square.factorize().solve(x))


def test_the_transpose_of_a_python_function_cannot_be_stored_either(points, tmp_path):
    kernel = kernels.Custom(lambda x, y: kernels.Matern()(x, 1.1 * y))
    with pytest.raises(ConfigError, match="cannot be stored"):
        H2Matrix.from_kernel(points, kernel).T.save(tmp_path)


def test_a_flipped_byte_anywhere_is_noticed(points, tmp_path):
    A = H2Matrix.from_kernel(points, kernels.Matern(), diagonal=0.1, leaf_size=32)
    A.save(tmp_path)
    generator = np.random.default_rng(0)
    for name in ("h2matrix.safetensors", "h2matrix.json"):
        whole = (tmp_path / name).read_bytes()
        for place in [*generator.integers(0, len(whole), 40), 9, len(whole) - 2]:
            spoiled = bytearray(whole)
            spoiled[place] ^= 1 << int(generator.integers(0, 7))
            (tmp_path / name).write_bytes(spoiled)
            if mean_the_same(spoiled, whole):
                continue
            with pytest.raises(ArtifactError, match=r"damaged|version"):
                H2Matrix.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    H2Matrix.load(tmp_path)


COUNTED = (  # one more or less does not fit the rest
    "near.start", "far.start", "row_basis.rank", "row_basis.order", "row_basis.order_start", "column_basis.rank",
    "rows.start", "rows.stop", "rows.permutation", "rows.parent", "rows.level_start", "rows.first_child",
)  # fmt: skip
# One more may be another index that is as good: the checksum has to tell.
CHOSEN = (
    "near.first", "near.second", "far.first", "far.second", "row_basis.skeletons", "interactions.near.start",
    "interactions.far.boxes",
)  # fmt: skip


@pytest.fixture(scope="module")
def skewed_form():
    """A sound matrix, of which a test may spoil an array for a while."""
    points = np.random.default_rng(0).random((700, 3))
    form = H2Matrix.from_kernel(points, kernels.Custom(skewed), leaf_size=32).form
    require_sound(form)
    return form


@pytest.mark.parametrize("array", COUNTED + CHOSEN)
def test_indices_that_lead_elsewhere_are_refused_even_with_the_right_checksum(array, skewed_form):
    *parts, last = array.split(".")
    owner = skewed_form
    for part in parts:
        owner = getattr(owner, part)
    sound = getattr(owner, last)
    place = 0 if last == "first_child" else len(sound) // 2  # the box at the top has children
    for value in (-1, 2**31 - 1, *([sound[place] + 1] if array in COUNTED else [])):
        spoiled = sound.copy()
        spoiled[place] = value
        object.__setattr__(owner, last, spoiled)
        try:
            with pytest.raises(ValueError, match=array.split(".")[0]):
                require_sound(skewed_form)
        finally:
            object.__setattr__(owner, last, sound)


def skewed(x, y):
    return kernels.Matern()(x, y) * (1 + 0.3 * x[..., :, None, 0])
