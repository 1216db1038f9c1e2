"""Arguments of divided matrices that one process gets wrong: all processes refuse them, in one line that names them."""

import math

import numpy as np
import pytest
import torch

from pipeline.hmatrix import DistributedH2Matrix, GaussianProcess, H2Matrix, kernels
from pipeline.hmatrix.distributed import DistributedLowRank
from pipeline.runtime.communicator import Serial, run_in_threads

KERNEL = kernels.SquaredExponential(length_scale=0.5)
SMOOTH = kernels.SquaredExponential(length_scale=4.0)
N = 90
POINTS = np.random.default_rng(0).random((N, 2))
VALUES = np.random.default_rng(1).standard_normal(N)


def own_rows(comm):
    """Return the rows of this process, of which the first has none."""
    if comm.size == 1:
        return slice(0, N)
    edges = np.insert(np.arange(comm.size) * N // (comm.size - 1), 1, 0)
    return slice(edges[comm.rank], edges[comm.rank + 1])


def built(comm, **options):
    return DistributedH2Matrix.from_kernel(
        POINTS[own_rows(comm)], KERNEL, comm, **({"diagonal": 0.1, "leaf_size": 16} | options)
    )


def low_rank(comm, **options):
    return DistributedLowRank.from_kernel(
        POINTS[own_rows(comm)], SMOOTH, comm, **({"diagonal": 0.1} | options)
    )


WRONG = {
    "built": (
        built,
        {
            "progress": [5],
            "admissibility": [[], np.zeros(2)],
            "leaf_size": [True],
            "tolerance": [1j, np.zeros(99)],
        },
    ),
    "factorized": (
        DistributedH2Matrix.factorize,
        {
            "speeds": ["fast", 5, [1.0], [1.0, 0.0], [1.0, math.nan], ["a", "b"], [None, 1.0], [1j, 1.0], {1: 2}],
            "kind": [np.zeros(2), None],
            "parts": [True, 1 << 40],
            "progress": [5],
            "device": ["meta", 5],
        },
    ),
    "of low rank": (
        low_rank,
        {"diagonal": ["a", np.ones(99), math.inf, 1j], "seed": ["a", -1]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", WRONG)
def test_what_one_process_gets_wrong_is_refused_on_all_by_name(verb):
    call, wrong = WRONG[verb]

    def work(comm):
        A = built(comm) if verb == "factorized" else comm
        lines = []
        for name, values in wrong.items():
            for value in values:
                with pytest.raises((TypeError, ValueError, RuntimeError), match=name) as failure:
                    call(A, **({name: value} if comm.rank == 1 else {}))
                comm.barrier()  # none has gone astray
                lines.append(str(failure.value))
        return lines

    for line in np.concatenate(run_in_threads(2, work)).tolist():
        assert "\n" not in line
        assert len(line) < 250


@pytest.mark.parametrize("wrong", [None, 5, "mpi", object(), Serial])
def test_what_is_no_communicator_is_refused_by_name(wrong, tmp_path):
    for action in (
        lambda: DistributedH2Matrix.from_kernel(POINTS, KERNEL, wrong),
        lambda: DistributedH2Matrix.load(tmp_path, wrong),
        lambda: DistributedLowRank.from_kernel(POINTS, KERNEL, wrong, diagonal=0.1),
        lambda: GaussianProcess(KERNEL, communicator=wrong or 5).fit(POINTS, VALUES),
    ):
        with pytest.raises(TypeError, match=r"communicator must be a Communicator, such as Serial\(\)"):
            action()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"progress": 5}, "progress must be a function"),
        ({"leaf_size": True}, "leaf_size must be a whole number"),
        ({"admissibility": []}, "admissibility must be"),
    ],
)
def test_the_undivided_matrix_refuses_the_same(options, words):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        H2Matrix.from_kernel(POINTS, KERNEL, diagonal=0.1, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"progress": 5}, "progress must be a function"),
        ({"parts": 1 << 40}, "parts must be at most"),
        ({"kind": np.zeros(2)}, r"kind: array.* is unknown"),
    ],
    ids=str,
)
def test_the_undivided_factorization_refuses_the_same(options, words):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        H2Matrix.from_kernel(POINTS, KERNEL, diagonal=0.1).factorize(**options)


def test_the_undivided_factorization_draws_whole_numbers_of_samples():
    F = H2Matrix.from_kernel(POINTS, KERNEL, diagonal=0.1).factorize()
    for n_samples in (-1, 2.5, "3", True):
        with pytest.raises(ValueError, match="n_samples must be a whole number"):
            F.sample(np.random.default_rng(0), n_samples)
    with pytest.raises(TypeError, match="sample needs a generator"):
        F.sample(0)


@pytest.mark.parametrize("rows", [10**30, -1, 2.5], ids=str)
def test_rows_that_no_matrix_has_are_refused_on_all(rows, tmp_path):
    run_in_threads(2, lambda comm: built(comm).save(tmp_path))

    def work(comm):
        with pytest.raises((TypeError, ValueError), match="n_own_rows"):
            DistributedH2Matrix.load(tmp_path, comm, n_own_rows=rows if comm.rank else 45)
        comm.barrier()

    run_in_threads(2, work)


@pytest.mark.parametrize(
    "speeds", [[1.0, 1000.0, 1.0], [1e308, 1e-308, 1.0], np.ones(3), "measured"], ids=str
)
@pytest.mark.parametrize("parts", [None, 2])
def test_any_speeds_and_parts_solve_the_dense_system_with_fewer_leaves_than_processes(speeds, parts):
    def work(comm):
        A = built(comm, leaf_size=64, tolerance=1e-9)
        return A.factorize(parts=parts, speeds=speeds).solve(VALUES[own_rows(comm)])

    x = np.concatenate(run_in_threads(3, work))
    system = KERNEL(POINTS, POINTS) + 0.1 * np.eye(N)
    assert np.linalg.norm(system @ x - VALUES) <= 1e-6 * np.linalg.norm(VALUES)


@pytest.mark.parametrize("columns", [(), (0,), (2,)], ids=str)
def test_a_process_without_rows_takes_part_in_products_and_solves_of_low_rank(columns):
    x = np.random.default_rng(2).standard_normal((N, *columns))

    def work(comm):
        A, own = low_rank(comm), own_rows(comm)
        return A @ x[own], A.factorize().solve(x[own])

    product, solution = (np.concatenate(parts) for parts in zip(*run_in_threads(3, work), strict=True))
    system = SMOOTH(POINTS, POINTS) + 0.1 * np.eye(N)
    np.testing.assert_allclose(product, system @ x, atol=1e-5)
    np.testing.assert_allclose(system @ solution, x, atol=1e-5)


def test_words_of_an_error_are_one_line_on_the_other_processes():
    def work(comm):
        def fails(*_):
            if comm.rank == 1:
                raise ValueError("one\ntwo")

        with pytest.raises(ValueError, match="two") as failure:
            built(comm, progress=fails)
        return str(failure.value)

    assert run_in_threads(2, work)[0] == "process 1: one two"


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")], ids=repr)
def test_a_device_may_be_given_by_its_name(device):
    def work(comm):
        return built(comm).factorize(1e-8, device=device if comm.rank else None).logdet()

    expected = np.linalg.slogdet(KERNEL(POINTS, POINTS) + 0.1 * np.eye(N))[1]
    np.testing.assert_allclose(run_in_threads(2, work), expected, rtol=1e-9)
