import json

import numpy as np
import pytest

from pipeline.hmatrix import H2Matrix, kernels


@pytest.fixture
def matrix():
    points = np.random.default_rng(0).random((600, 2))
    return H2Matrix.from_kernel(points, kernels.Matern(), diagonal=0.1, leaf_size=16)


def test_blocks_tile_the_matrix(matrix):
    covered = np.zeros((600, 600), dtype=int)
    for block in matrix.structure()["blocks"]:
        covered[slice(*block["rows"]), slice(*block["columns"])] += 1
    assert (covered == 1).all()


def test_structure_is_json_and_its_table_sums_up(matrix):
    structure = json.loads(json.dumps(matrix.structure()))
    assert structure["blocks_left_out"] == 0
    assert structure["levels"][-1]["unknowns"] == 600
    values = matrix.near.values.nbytes + matrix.far.values.nbytes + matrix.column_basis.values.nbytes
    assert sum(row["bytes"] for row in structure["levels"]) == values
    assert {block["kind"] for block in structure["blocks"]} == {"near", "far"}


def test_far_blocks_have_ranks_below_their_sizes(matrix):
    far = [block for block in matrix.structure()["blocks"] if block["kind"] == "far"]
    assert all(block["rank"] <= block["rows"][1] - block["rows"][0] for block in far)


def test_the_largest_rank_is_that_of_the_blocks_and_of_the_table(matrix):
    structure = matrix.structure()
    ranks = [block["rank"] for block in structure["blocks"] if block["kind"] == "far"]
    assert structure["largest_rank"] == max(ranks)
    assert max(row["largest_rank"] for row in structure["levels"]) == max(ranks)
    for row in structure["levels"]:
        of_level = [
            b["rank"] for b in structure["blocks"] if b["rank"] is not None and b["level"] == row["level"]
        ]
        assert row["largest_rank"] == max(of_level, default=0)


def test_everything_prints_on_one_line(matrix):
    F = matrix.factorize(1e-3)
    parts = [matrix, matrix.rows, matrix.row_basis, matrix.near, matrix.far, matrix.interactions]
    for part in [*parts, matrix.interactions.near, F, F.steps]:
        assert len(repr(part)) < 150
        assert "\n" not in repr(part)
        assert repr(part).startswith(type(part).__name__ + "(")
    assert repr(matrix).startswith("H2Matrix(600 x 600 float64, Matern, tolerance 1e-06, ")
    assert repr(F).startswith("Factorization(600 x 600 float64, cholesky, tolerance 1e-03 in float32, ")


def test_a_share_that_does_not_exist_is_refused(matrix):
    with pytest.raises(ValueError, match="share 3 of 3"):
        matrix.part(3, 3)


def test_shares_take_part_in_arithmetic_as_the_matrices_that_they_are(matrix):
    x = np.random.default_rng(1).standard_normal((600, 3))
    first, second = (matrix.part(number, 2) for number in (0, 1))
    dense = first.to_dense()

    def close(found, expected):
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)

    close(dense + second.to_dense(), matrix.to_dense())
    close((first + second) @ x, matrix @ x)
    close((2 * first - first) @ x, dense @ x)
    close(first.recompress(tolerance=1e-6) @ x, dense @ x)
    close((first @ first) @ x, dense @ (dense @ x))
    close(first.T @ x, dense.T @ x)
    shifted = first.add_diagonal(1e3)
    assert shifted.factorize(1e-8).logdet() == pytest.approx(
        np.linalg.slogdet(dense + 1e3 * np.eye(600))[1], rel=1e-6
    )
    y, info = shifted.solve(x)
    close(dense @ y + 1e3 * y, x)
    assert info.exact_residual is None
    with pytest.raises(ValueError, match="exact entries"):
        first.error_estimate()
    assert matrix.part(0, 1).error_estimate() < 1e-5
