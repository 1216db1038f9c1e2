"""What users do to a divided matrix that no method asks for: right, or refused on all processes in one line."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ArtifactError, ConfigError, ConvergenceError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.hmatrix.distributed import storage
from pipeline.runtime.communicator import Serial, run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
N = 400
POINTS = np.random.default_rng(0).random((N, 2))
VALUES = np.random.default_rng(1).standard_normal(N)


def own_rows(comm, n=N):
    return np.array_split(np.arange(n), comm.size)[comm.rank]


def built(comm, diagonal=0.1, kernel=COVARIANCE, points=POINTS, **options):
    return DistributedH2Matrix.from_kernel(
        points[own_rows(comm, len(points))], kernel, comm, diagonal=diagonal, leaf_size=16, **options
    )


def dense(diagonal=0.1):
    y = torch.from_numpy(POINTS)
    return COVARIANCE(y, y).numpy() + diagonal * np.eye(N)


def product_error(A, own, diagonal=0.1):
    exact = (dense(diagonal) @ VALUES)[own]
    return np.linalg.norm(A @ VALUES[own] - exact) / np.linalg.norm(exact)


def refused(n_processes, work, kinds, words=None):
    """Let all processes fail, each with these words and in one line, and go on together."""

    def run(comm):
        with pytest.raises(kinds, match=words) as failure:
            work(comm)
        comm.barrier()  # none has gone astray
        return str(failure.value)

    assert all("\n" not in line for line in run_in_threads(n_processes, run))


@pytest.mark.parametrize("kind", [">c16", np.longdouble, np.float16, ">i4", bool])
def test_vectors_of_any_numbers_in_any_order_of_bytes_are_taken(kind):
    x = (10 * VALUES).astype(kind)

    def work(comm):
        own = own_rows(comm)
        A = built(comm)
        return A @ x[own], A.factorize(1e-10).solve(x[own])

    found = run_in_threads(2, work)
    same = x.astype(np.complex128 if np.dtype(kind).kind == "c" else np.float64)
    assert np.linalg.norm(np.concatenate([y for y, _ in found]) - dense() @ same) <= 2e-6 * np.linalg.norm(
        dense() @ same
    )
    solution = np.concatenate([y for _, y in found])
    # Results are rounded to single precision where the vectors were narrower.
    rounding = np.finfo(solution.real.dtype).eps * np.linalg.norm(dense(), 2) * np.linalg.norm(solution)
    assert np.linalg.norm(dense() @ solution - same) <= 1e-8 * np.linalg.norm(same) + rounding


def test_vectors_in_another_order_of_bytes_on_one_process_alone_are_taken():
    def work(comm):
        own = own_rows(comm)
        return built(comm) @ VALUES[own].astype(">f8" if comm.rank else "<f8")

    exact = dense() @ VALUES
    assert np.linalg.norm(np.concatenate(run_in_threads(2, work)) - exact) <= 2e-6 * np.linalg.norm(exact)


def test_numbers_on_the_diagonal_are_the_same_everywhere_and_arrays_are_any():
    words = "diagonal: process 0 passes 0.1 and process 1 0.2; pass the same number on all processes"
    refused(3, lambda comm: built(comm, [0.1, 0.2, 0.1][comm.rank]), ConfigError, words)

    def work(comm):
        own = own_rows(comm)
        A = built(comm, np.full(len(own), 0.1) if comm.rank == 1 else 0.1)
        return product_error(A, own)

    assert max(run_in_threads(3, work)) <= 2e-6


def test_huge_entries_end_all_processes_where_warnings_are_errors():
    def work(comm):
        calls = []

        def entries(x, y):
            calls.append(1)
            block = COVARIANCE(x, y)
            return block * 1e200 if comm.rank == 1 and len(calls) > 20 else block

        built(comm, kernel=kernels.Custom(entries))

    refused(3, work, (ConfigError, ConvergenceError))


@pytest.mark.parametrize("what", ["build", "factorize"])
def test_an_interrupt_on_one_process_ends_all(what):
    def work(comm):
        def interrupt(done, n):
            if comm.rank == 1:
                raise KeyboardInterrupt

        if what == "build":
            built(comm, progress=interrupt)
        else:
            built(comm).factorize(1e-6, progress=interrupt)

    def run(comm):
        expected = KeyboardInterrupt if comm.rank == 1 else (RuntimeError, ConvergenceError)
        with pytest.raises(expected) as failure:
            work(comm)
        comm.barrier()
        return str(failure.value)

    for rank, line in enumerate(run_in_threads(3, run)):
        assert rank == 1 or (line.startswith("process 1") and line.endswith("KeyboardInterrupt")), line


def test_a_factorization_of_other_points_does_not_precondition():
    def work(comm):
        own = own_rows(comm)
        built(comm).solve(VALUES[own], factorization=built(comm, points=POINTS[:300]).factorize())

    refused(2, work, ValueError, "factorization is that of a matrix with other points")


@pytest.mark.parametrize(
    "arguments", [{"n_vectors": 0}, {"n_vectors": 2.5}, {"seed": -1}, {"seed": "a"}], ids=str
)
def test_an_error_is_estimated_with_vectors_and_a_seed(arguments):
    refused(
        2,
        lambda comm: built(comm).error_estimate(**arguments),
        (TypeError, ValueError),
        next(iter(arguments)),
    )


@pytest.mark.parametrize("again", [copy.deepcopy, lambda A: pickle.loads(pickle.dumps(A))])
def test_a_matrix_of_one_process_is_copied_and_pickled_and_one_of_several_says_that_it_is_not(again):
    A = built(Serial())
    F = A.factorize(1e-8)
    expected, solution = A @ VALUES, F.solve(VALUES)
    np.testing.assert_array_equal(again(A) @ VALUES, expected)
    np.testing.assert_array_equal(again(F).solve(VALUES), solution)
    refused(
        2,
        lambda comm: again(built(comm)),
        TypeError,
        r"cannot be pickled or copied; A.save\(folder\) writes it",
    )
    refused(2, lambda comm: again(built(comm).factorize()), TypeError, "cannot be pickled or copied")


def test_the_matrix_that_was_saved_last_is_the_one_that_is_read(tmp_path):
    one = H2Matrix.from_kernel(POINTS, COVARIANCE, diagonal=0.9)
    one.save(tmp_path)
    run_in_threads(2, lambda comm: built(comm).save(tmp_path))
    np.testing.assert_allclose(H2Matrix.load(tmp_path) @ VALUES, dense(0.1) @ VALUES, atol=1e-4)
    assert not list(tmp_path.glob("h2matrix*"))
    one.save(tmp_path)
    np.testing.assert_array_equal(H2Matrix.load(tmp_path) @ VALUES, one @ VALUES)
    refused(
        2, lambda comm: DistributedH2Matrix.load(tmp_path, comm), ArtifactError, "holds no divided H2 matrix"
    )
    assert not list(tmp_path.glob("shard*"))


@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), PermissionError(13, "denied"), MemoryError()]
)
def test_what_one_process_cannot_write_leaves_the_matrix_that_was_there(failure, tmp_path, monkeypatch):
    run_in_threads(2, lambda comm: built(comm, 0.7).save(tmp_path))
    before = sorted(file.name for file in tmp_path.iterdir())
    (tmp_path / "shard-00007.unfinished").touch()  # of processes that were killed

    def write(file, arrays):
        if "00001" in file.name:
            file.write_bytes(b"half of it")
            raise failure
        return 0

    monkeypatch.setattr(storage, "write_shard", write)
    refused(3, lambda comm: built(comm).save(tmp_path), type(failure))
    refused(3, lambda comm: built(comm).save(tmp_path / "new"), type(failure))
    assert sorted(file.name for file in tmp_path.iterdir()) == [*before[:1], "new", *before[1:]]
    assert list((tmp_path / "new").iterdir()) == []

    def work(comm):
        own = own_rows(comm)
        return product_error(DistributedH2Matrix.load(tmp_path, comm), own, 0.7)

    assert max(run_in_threads(2, work)) <= 2e-6


def test_blocks_may_be_moved_to_the_disk_again_and_by_another_matrix(tmp_path):
    def work(comm):
        own = own_rows(comm)
        A = built(comm).on_disk(tmp_path)
        again = A.on_disk(tmp_path)
        other = built(comm, 0.7).on_disk(tmp_path)
        return product_error(A, own), product_error(again, own), product_error(other, own, 0.7)

    assert np.max(run_in_threads(2, work)) <= 2e-6
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize("verb", ["save", "on_disk", "load"])
def test_all_processes_name_one_folder(verb, tmp_path):
    for name in ("0", "1"):
        run_in_threads(2, lambda comm, name=name: built(comm, 0.5 + int(name)).save(tmp_path / name))

    def call(comm, path):
        if verb == "load":
            DistributedH2Matrix.load(path, comm)
        else:
            getattr(built(comm), verb)(path)

    refused(2, lambda comm: call(comm, tmp_path / str(comm.rank)), ConfigError, "path: process 0 passes")
    refused(2, lambda comm: call(comm, [tmp_path / "0", None][comm.rank]), TypeError, "NoneType")


def test_processes_that_find_other_matrices_in_one_folder_are_told(tmp_path, monkeypatch):
    for name in ("0", "1"):
        run_in_threads(2, lambda comm, name=name: built(comm, 0.5 + int(name)).save(tmp_path / name))
    read = storage.Description.read
    # As where a folder is each node's own.
    found = iter(("0", "1"))
    monkeypatch.setattr(storage.Description, "read", lambda path: read(tmp_path / next(found)))
    refused(
        2, lambda comm: DistributedH2Matrix.load(Path(tmp_path), comm), ConfigError, "checksum of h2shards"
    )


@pytest.mark.parametrize("rows", [[-100, 500], [200.0, 200.0], [200, "x"], ["200", 200]], ids=str)
def test_rows_of_a_process_are_counted(rows, tmp_path):
    run_in_threads(2, lambda comm: built(comm).save(tmp_path))
    refused(
        2,
        lambda comm: DistributedH2Matrix.load(tmp_path, comm, n_own_rows=rows[comm.rank]),
        (TypeError, ValueError),
        "n_own_rows",
    )


@pytest.mark.parametrize(
    ("generator", "n_samples"), [(None, 2), (0, 2), ("seeded", -1), ("seeded", 2.5), ("seeded", "3")], ids=str
)
def test_samples_that_one_process_cannot_draw_are_drawn_by_none(generator, n_samples):
    def work(comm):
        F = built(comm).factorize(1e-3)
        seeded = np.random.default_rng(0)
        if comm.rank == 1:
            F.sample(seeded if generator == "seeded" else generator, n_samples)
        F.sample(seeded, 2)

    refused(2, work, (TypeError, ValueError), "sample")


@pytest.mark.parametrize("batched", [(0, 1, 2), (1,), (2,)], ids=str)
def test_parts_in_batches_factorize_matrices_too_small_for_any_level(batched):
    def work(comm):
        device = torch.device("cpu") if comm.rank in batched else None
        return built(comm).factorize(1e-8, device=device).logdet()

    expected = np.linalg.slogdet(dense())[1]
    np.testing.assert_allclose(run_in_threads(3, work), expected, rtol=1e-9)


def test_a_device_that_one_process_does_not_have_ends_all():
    def work(comm):
        built(comm).factorize(1e-3, device=torch.device("cuda:77") if comm.rank else None)

    refused(2, work, ConfigError, "device: cuda:77 takes no numbers")
