"""Divided factorizations of awkward splits and point sets against dense algebra, and unlike processes refused."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, ConvergenceError
from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.runtime.communicator import run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
NUGGET, TOLERANCE, N = 0.1, 1e-9, 330
MORE_THAN_LEAVES = "more processes than leaves"
SPLITS = {
    "all on the last": [0, 0, 0, N],
    "one without points": [0, N // 3, N // 3, N],
    "one point on the first": [0, 1, N],
    MORE_THAN_LEAVES: np.round(np.linspace(0, N, 18)).astype(int).tolist(),
}


def point_sets():
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [1.0, 0.0], [0.3, 5.0]])
    return {
        "line": rng.random((N, 1)),
        "square": rng.random((N, 2)),
        "cube": rng.random((N, 3)),
        "clusters": np.repeat(centers, N // 3, axis=0) + 1e-3 * rng.standard_normal((N, 2)),
        "all in two places": np.repeat([[0.0, 0.0], [1.0, 0.5]], N // 2, axis=0),
    }


POINTS = point_sets()


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.distributed.factor._DENSE_END", 60)


def run(edges, points, work, **options):
    """Call work(matrix, own rows) on processes that split the points at these edges, and return the results."""

    def one(comm):
        own = slice(edges[comm.rank], edges[comm.rank + 1])
        given = {"diagonal": NUGGET, "tolerance": TOLERANCE, "leaf_size": 16} | options
        return work(DistributedH2Matrix.from_kernel(points[own], COVARIANCE, comm, **given), own)

    return run_in_threads(len(edges) - 1, one)


def require_solution(points, x, b, tolerance=TOLERANCE):
    """Check |A x - b|.

    Entries are at most 1, so that what was lost is at most tolerance n |x|, and |x| <= |b| / nugget.
    """
    y = torch.from_numpy(points).double()
    residual = COVARIANCE(y, y).numpy() @ x + NUGGET * x - b
    assert np.linalg.norm(residual) <= tolerance * len(points) / NUGGET * np.linalg.norm(b)


# Sets of points decide the tree, splits who owns its boxes: the two meet where boxes are empty, alike or few.
@pytest.mark.parametrize(
    ("split", "name"),
    [
        *((split, "square") for split in SPLITS if split != MORE_THAN_LEAVES),
        *((split, "all in two places") for split in SPLITS),
        (MORE_THAN_LEAVES, "clusters"),
    ],
)
def test_any_split_of_any_points_is_solved(split, name):
    points, b = POINTS[name], np.random.default_rng(1).standard_normal(N)
    leaf_size = 48 if split == MORE_THAN_LEAVES else 16
    found = run(SPLITS[split], points, lambda A, own: A.factorize().solve(b[own]), leaf_size=leaf_size)
    require_solution(points, np.concatenate(found), b)


@pytest.mark.parametrize("kind", ["cholesky", "ldlt", "lu"])
@pytest.mark.parametrize("rule", ["strong", "weak"])
def test_both_admissibilities_are_factorized_in_every_way(rule, kind):
    points, b = POINTS["square"], np.random.default_rng(1).standard_normal(N)
    found = run(
        SPLITS["one without points"],
        points,
        lambda A, own: A.factorize(kind=kind).solve(b[own]),
        admissibility=rule,
    )
    require_solution(points, np.concatenate(found), b)


def test_single_precision_comes_back_as_it_came():
    points, b = POINTS["square"].astype(np.float32), np.ones(N, np.float32)
    found = run(
        SPLITS["one without points"], points, lambda A, own: A.factorize().solve(b[own]), tolerance=1e-5
    )
    x = np.concatenate(found)
    assert x.dtype == np.float32
    require_solution(points, x.astype(np.float64), b, 1e-5)


def said_by_all(edges, points, work, kind, text, **options):
    """Check that all processes raise the same line of an error."""

    def refused(A, own):
        with pytest.raises(kind, match=text) as failure:
            work(A, own)
        return str(failure.value)

    lines = run(edges, points, refused, **options)
    assert len(set(lines)) == 1
    assert "\n" not in lines[0]


def test_a_factorization_s_tolerance_kind_and_speeds_have_to_be_alike():
    def unlike(name, one, other):
        return lambda A, _: A.factorize(**{name: other if A.communicator.rank == 1 else one})

    for name, one, other in (
        ("tolerance", 1e-6, 1e-5),
        ("kind", "cholesky", "ldlt"),
        ("speeds", [1, 1, 1], [1, 2, 1]),
    ):
        said_by_all(
            SPLITS["one without points"], POINTS["square"], unlike(name, one, other), ConfigError,
            f"{name}: process 0 passes .* and process 1 .*; pass the same on all processes",
        )  # fmt: skip


def test_functions_that_are_not_the_same_on_all_processes_are_refused():
    def build(comm):
        scale = 1.0 + 1e-3 * comm.rank
        kernel = COVARIANCE + kernels.Custom(lambda x, y: scale * COVARIANCE(x, y))
        with pytest.raises(ConfigError, match="kernel: process 1 has other values") as failure:
            DistributedH2Matrix.from_kernel(POINTS["square"][comm.rank :: 2], kernel, comm, diagonal=0.1)
        return str(failure.value)

    assert len(set(run_in_threads(2, build))) == 1


def test_a_solve_s_arguments_have_to_be_alike_and_what_they_say():
    for work, kind, text in (
        (
            lambda A, b: A.solve(b, tolerance=1e-3 / (1 + A.communicator.rank)),
            ConfigError,
            "tolerance: process 0",
        ),
        (
            lambda A, b: A.solve(b, max_iterations=5 + A.communicator.rank),
            ConfigError,
            "max_iterations: process 0",
        ),
        (
            lambda A, b: A.solve(b, factorization=3),
            TypeError,
            "factorization must be the result of A.factorize",
        ),
        (
            lambda A, b: A.error_estimate(seed=A.communicator.rank),
            ConfigError,
            "seed: process 0 passes 0 and",
        ),
        (lambda A, b: A.factorize(parts=0), ValueError, "parts must be at least 1, not 0"),
        (lambda A, b: A.factorize(parts=2.5), TypeError, "parts must be a whole number"),
    ):

        def refused(comm, work=work, kind=kind, text=text):
            own = POINTS["square"][comm.rank :: 2]
            A = DistributedH2Matrix.from_kernel(own, COVARIANCE, comm, diagonal=0.1)
            with pytest.raises(kind, match=text):
                work(A, np.ones(len(own)))

        run_in_threads(2, refused)


def test_generators_in_other_states_are_refused():
    def draw(A, _):
        A.factorize().sample(np.random.default_rng(A.communicator.rank))

    said_by_all(
        SPLITS["one without points"], POINTS["square"], draw, ConfigError,
        "state of generator: process 0 passes .* and process 1",
    )  # fmt: skip


def test_a_kernel_that_is_nan_at_one_process_s_points_is_told_by_all():
    """The kernel breaks when the matrix is built, near the points of one process."""
    broken = []

    def entries(x, y):
        values = COVARIANCE(x, y)
        return torch.where((x[..., 0] > 0.9).unsqueeze(-1), torch.nan, values) if broken else values

    kernel = kernels.Custom(lambda x, y: entries(x, y), symmetric=True, positive_definite=True)
    points = POINTS["square"]

    def work(comm):
        own = np.array_split(points[np.argsort(points[:, 0])], 3)[comm.rank]
        A = DistributedH2Matrix.from_kernel(own, kernel, comm, diagonal=NUGGET, leaf_size=16)
        comm.barrier()
        broken.append(comm.rank)
        comm.barrier()
        with pytest.raises(ConvergenceError, match="NaN") as failure:
            A.factorize(parts=3)
        return str(failure.value)

    lines = run_in_threads(3, work)
    assert len(set(lines)) == 1
    assert "\n" not in lines[0]
