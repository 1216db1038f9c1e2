import json
import threading
from collections import Counter, defaultdict

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.errors import ArtifactError, ConfigError
from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.hmatrix.distributed import own_shards
from pipeline.hmatrix.shard_files import Shard, shard_path, write_shard
from pipeline.runtime.communicator import Serial, run_in_threads

COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)


class NotKnownAsSymmetric(kernels.Matern):
    """Stands for registered kernels that are not symmetric, of which there are none yet."""

    symmetric = False


CASES = {
    "square": (2, COVARIANCE, {"diagonal": 0.1}),
    "cube": (3, COVARIANCE, {"tolerance": 1e-4}),
    "line": (1, COVARIANCE, {"admissibility": "weak"}),
    "wave": (3, kernels.Helmholtz(wavenumber=4.0), {"diagonal": 1.0j, "tolerance": 1e-8}),
    "two bases": (2, NotKnownAsSymmetric(nu=0.5, length_scale=0.3), {}),
    "two length scales": (2, kernels.Matern(nu=1.5, length_scale=(0.1, 0.5)), {"tolerance": 1e-8}),
}
N = 300


def saved(folder, points, kernel, n_processes, **options):
    def work(comm):
        own = np.array_split(points, n_processes)[comm.rank]
        DistributedH2Matrix.from_kernel(own, kernel, comm, leaf_size=16, **options).save(folder)

    run_in_threads(n_processes, work)


def products(folder, x, n_processes):
    """Return A x by a matrix that some processes load, in rows split evenly."""

    def work(comm):
        edges = np.arange(n_processes + 1) * len(x) // n_processes
        A = DistributedH2Matrix.load(folder, comm)
        return A @ x[edges[comm.rank] : edges[comm.rank + 1]]

    return np.concatenate(run_in_threads(n_processes, work))


@pytest.mark.parametrize("name", CASES)
def test_shards_are_read_by_any_number_of_processes_and_whole(name, tmp_path):
    dimension, kernel, options = CASES[name]
    rng = np.random.default_rng(0)
    points, x = rng.random((N, dimension)), rng.standard_normal((N, 2))
    saved(tmp_path, points, kernel, 3, **options)
    whole = H2Matrix.load(tmp_path)
    assert whole.kernel.to_dict() == kernel.to_dict()
    assert whole.is_symmetric == kernel.symmetric
    assert whole.tolerance == options.get("tolerance", 1e-6)
    expected = whole @ x
    exact = H2Matrix.from_kernel(points, kernel, leaf_size=16, **options) @ x
    assert np.linalg.norm(expected - exact) <= 2 * whole.tolerance * np.linalg.norm(exact)
    for n_processes in (1, 2, 3, 5):
        # The same blocks and bases: only the order of sums differs.
        np.testing.assert_allclose(products(tmp_path, x, n_processes), expected, rtol=1e-9, atol=1e-11)


def test_what_is_loaded_can_be_factorized_saved_and_asked_for_its_error(tmp_path):
    rng = np.random.default_rng(0)
    points, b = rng.random((N, 2)), rng.standard_normal(N)
    saved(tmp_path / "first", points, COVARIANCE, 2, diagonal=0.1)

    def work(comm):
        A = DistributedH2Matrix.load(tmp_path / "first", comm, n_own_rows=[N, 0, 0][comm.rank])
        A.save(tmp_path / "second")
        x, _ = A.solve(b if comm.rank == 0 else b[:0])
        return x, A.error_estimate()

    found = run_in_threads(3, work)
    assert found[0][1] <= 1e-6
    again = H2Matrix.load(tmp_path / "second")
    assert np.linalg.norm(again @ found[0][0] - b) <= 1e-5 * np.linalg.norm(b)


def counted_load(folder, n_processes, monkeypatch):
    """Load, and return for each process the shards that it checked, those that it opened, bytes."""
    checked, opened, n_read = defaultdict(list), defaultdict(list), Counter()
    check, begin, part = own_shards.check_shard, Shard.__init__, Shard.part

    def check_too(path, number, checksum):
        checked[threading.get_ident()].append(number)
        check(path, number, checksum)

    def begin_too(shard, path, number):
        opened[threading.get_ident()].append(number)
        begin(shard, path, number)

    def part_too(shard, *which):
        found = part(shard, *which)
        n_read[threading.get_ident()] += found.nbytes
        return found

    monkeypatch.setattr(own_shards, "check_shard", check_too)
    monkeypatch.setattr(Shard, "__init__", begin_too)
    monkeypatch.setattr(Shard, "part", part_too)

    def work(comm):
        DistributedH2Matrix.load(folder, comm)
        me = threading.get_ident()
        return checked[me], opened[me], n_read[me]

    return run_in_threads(n_processes, work)


@pytest.mark.parametrize("n_processes", [1, 3, 8, 11])
def test_a_process_reads_the_shards_that_hold_its_rows_and_each_is_checked_once(
    n_processes, tmp_path, monkeypatch
):
    saved(tmp_path, np.random.default_rng(0).random((900, 2)), COVARIANCE, 8, diagonal=0.1)
    found = counted_load(tmp_path, n_processes, monkeypatch)
    assert sorted(number for checked, *_ in found for number in checked) == list(range(8))
    for process, (checked, opened, n_read) in enumerate(found):
        shared = {
            s for s in range(8) if s < 8 * (process + 1) / n_processes and s + 1 > 8 * process / n_processes
        }
        assert shared <= set(opened) <= shared | {min(shared) - 1, max(shared) + 1}  # cuts are at boxes
        assert len(checked) <= -(-8 // n_processes)
        assert n_read <= sum(shard_path(tmp_path, number).stat().st_size for number in opened)


def test_bytes_that_processes_read_do_not_grow_with_their_number(tmp_path, monkeypatch):
    saved(tmp_path, np.random.default_rng(0).random((2000, 2)), COVARIANCE, 4)
    one, many = (sum(n_read for *_, n_read in counted_load(tmp_path, n, monkeypatch)) for n in (1, 4))
    assert many <= 1.1 * one


def test_shards_are_safetensors_and_parts_of_arrays_are_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "real": rng.random(7),
        "complex": rng.random(5) + 1j * rng.random(5),
        "half as long": rng.random(3).astype(np.complex64),
        "points": rng.random((4, 3)),
        "none": np.zeros((0, 2), np.float32),
        "numbers": np.arange(6),
        "boxes": np.arange(3, dtype=np.int32),
    }
    write_shard(shard_path(tmp_path, 3), arrays)
    theirs = load_file(shard_path(tmp_path, 3))
    np.testing.assert_array_equal(theirs["points"], arrays["points"])
    np.testing.assert_array_equal(theirs["complex!"].view(np.complex128), arrays["complex"])
    with Shard(tmp_path, 3) as shard:
        assert "real" in shard
        assert "complex" in shard
        assert "imaginary" not in shard
        for name, values in arrays.items():
            assert shard[name].dtype == values.dtype
            for start in range(len(values) + 1):
                for stop in range(start, len(values) + 1):
                    np.testing.assert_array_equal(shard.part(name, start, stop), values[start:stop])


def damaged(folder, how):
    shard = folder / "shard-00001.safetensors"
    if how == "missing":
        shard.unlink()
    elif how == "a flipped byte":
        content = bytearray(shard.read_bytes())
        content[-5] ^= 1
        shard.write_bytes(bytes(content))
    elif how == "of another matrix":
        saved(folder / "other", np.random.default_rng(5).random((N, 2)), COVARIANCE, 2)
        shard.write_bytes((folder / "other" / shard.name).read_bytes())
    elif how == "cut off":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "described wrongly":
        file = folder / "h2shards.json"
        file.write_text(file.read_text().replace("0.3", "0.4"))
    elif how == "of another version":
        file = folder / "h2shards.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))
    else:
        (folder / "h2shards.json").unlink()


BROKEN = {
    "missing": r"shard-00001\.safetensors is missing",
    "a flipped byte": r"shard-00001\.safetensors is damaged",
    "of another matrix": r"shard-00001\.safetensors is damaged, or of another matrix",
    "cut off": r"shard-00001\.safetensors is damaged",
    "empty": r"shard-00001\.safetensors is damaged",
    "described wrongly": r"h2shards\.json: it differs from what was written",
    "of another version": r"another version than 3",
    "not described": r"h2shards\.json is missing",
}


@pytest.mark.parametrize(
    ("how", "n_processes"),
    [*((how, 2) for how in BROKEN), ("missing", 1), ("missing", 5), ("a flipped byte", 5)],
)
def test_a_folder_that_is_broken_is_refused_on_all_processes(how, n_processes, tmp_path):
    saved(tmp_path, np.random.default_rng(0).random((N, 2)), COVARIANCE, 2)
    damaged(tmp_path, how)

    def work(comm):
        with pytest.raises(ArtifactError, match=BROKEN[how]) as failure:
            DistributedH2Matrix.load(tmp_path, comm)
        return str(failure.value)

    assert all("\n" not in line for line in run_in_threads(n_processes, work))
    if how != "not described":
        with pytest.raises(ArtifactError, match=BROKEN[how]):
            H2Matrix.load(tmp_path)


def test_a_python_function_cannot_be_saved_and_nothing_is_left_behind(tmp_path):
    A = DistributedH2Matrix.from_kernel(
        np.random.default_rng(0).random((50, 2)), kernels.Custom(lambda x, y: COVARIANCE(x, y)), Serial()
    )
    with pytest.raises(ConfigError):
        A.save(tmp_path / "matrix")
    assert not (tmp_path / "matrix").exists()


def test_rows_have_to_add_up(tmp_path):
    saved(tmp_path, np.random.default_rng(0).random((N, 2)), COVARIANCE, 2)

    def work(comm):
        with pytest.raises(ValueError, match=rf"the processes have 20 rows together, and the matrix has {N}"):
            DistributedH2Matrix.load(tmp_path, comm, n_own_rows=10)

    run_in_threads(2, work)


@pytest.mark.parametrize("name", ["square", "wave", "two bases"])
def test_a_matrix_whose_blocks_lie_on_the_disk_multiplies_and_solves_as_before(name, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.blocks._PIECE", 1000)  # a few blocks at a time
    dimension, kernel, options = CASES[name]
    rng = np.random.default_rng(0)
    points, x = rng.random((N, dimension)), rng.standard_normal(N)

    def work(comm):
        own = np.array_split(np.arange(N), 3)[comm.rank]
        A = DistributedH2Matrix.from_kernel(points[own], kernel, comm, leaf_size=16, **options)
        moved = A.on_disk(tmp_path)
        np.testing.assert_array_equal(moved @ x[own], A @ x[own])
        if name == "square":
            np.testing.assert_array_equal(
                moved.factorize(parts=3).solve(x[own]), A.factorize(parts=3).solve(x[own])
            )
        return moved

    for moved in run_in_threads(3, work):
        values = moved.form.near.inner.values
        assert isinstance(values, np.memmap)
    assert len(list(tmp_path.glob("near-inner-*.npy"))) == 3
