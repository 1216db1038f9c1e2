import tracemalloc

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.hmatrix import kernels
from pipeline.hmatrix.distributed import DistributedLowRank
from pipeline.runtime.communicator import Serial
from pipeline.runtime.predicted_memory import NodeLimits, predict_memory, predicted_job, require_room

SOLVE = {"task": "solve", "factor": {"tolerance": 1e-2}}
FACTS = {"name": "file", "n": 10**6, "dimension": 2}


def test_bytes_grow_with_points_digits_and_dimension_and_are_shared():
    def solved(n=10**6, dimension=2, tolerance=1e-6, processes=1):
        return predict_memory("file", n, dimension, tolerance, 1e-2, processes).solve_bytes

    program = solved(n=0)
    assert solved(n=2 * 10**6) - program == pytest.approx(2 * (solved() - program), rel=1e-6)
    assert solved(processes=8) - program == pytest.approx((solved() - program) / 8, rel=1e-6)
    assert solved(dimension=1) < solved() < solved(dimension=3)
    assert solved(tolerance=1e-3) < solved(tolerance=1e-5) < solved(tolerance=1e-7)
    assert solved(tolerance=1e-12) == solved(tolerance=1e-8)  # the end of what was measured


def test_points_on_a_sphere_are_those_of_a_surface_and_many_dimensions_those_of_a_dense_matrix():
    surface, plane = (
        predict_memory(name, 10**5, d, 1e-4, 1e-2, 1) for name, d in (("airports", 3), ("file", 2))
    )
    assert surface == plane
    assert predict_memory("file", 10**4, 64, 1e-4, 1e-2, 1).solve_bytes > 8 * 10**8


@pytest.mark.parametrize("dimension", [2, 64])
def test_a_low_rank_has_room_for_the_most_columns_that_it_may_have(dimension):
    n, node = 20_000, NodeLimits(n_bytes=1e12, processes=2)
    program = predict_memory("file", 0, 2, 1e-6, 1e-6, 1).solve_bytes
    found = predict_memory("file", n, dimension, 1e-5, 1e-2, 1, form="low_rank")
    assert found.compress_bytes - program >= 2 * 8 * n * n // 4
    dense = predict_memory("file", n, 64, 1e-5, 1e-2, 1)
    assert found.compress_bytes < found.solve_bytes < dense.solve_bytes / 2
    facts = FACTS | {"n": n, "dimension": dimension}
    job = predicted_job("solve", facts, {"task": "solve"}, 1e-5, node, form="low_rank")
    assert job.n_bytes == 2 * predict_memory("file", n, dimension, 1e-5, 1e-2, 2, form="low_rank").solve_bytes


def test_a_low_rank_near_the_most_columns_takes_no_more_than_was_predicted():
    n = 1601
    points = np.random.default_rng(0).standard_normal((n, 7))
    predicted = predict_memory("file", n, 7, 1e-2, 1e-2, 1, form="low_rank")
    program = predict_memory("file", 0, 7, 1e-2, 1e-2, 1).solve_bytes
    tracemalloc.start()
    try:
        kernel = kernels.SquaredExponential(length_scale=1.9)
        A = DistributedLowRank.from_kernel(points, kernel, Serial(), diagonal=1.0, tolerance=1e-2)
        built = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        A.factorize()
        factorized = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n / 5 < A.rank <= n / 4 + 1
    assert built <= predicted.compress_bytes - program
    assert factorized <= predicted.solve_bytes - program


@pytest.mark.parametrize("n", [1, 10**5, 10**7])
def test_a_job_s_processes_have_room_on_their_nodes(n):
    node = NodeLimits(n_bytes=4e9, processes=4)
    job = predicted_job("solve", FACTS | {"n": n}, SOLVE, 1e-6, node)
    assert job.processes >= 2
    assert job.n_bytes <= node.n_bytes
    assert job.nodes == -(-job.processes // 4)


def test_points_of_the_globe_are_a_surface_whatever_their_name():
    node = NodeLimits(n_bytes=1e12, processes=2)
    volume, globe, named = (
        predicted_job("solve", FACTS | {"dimension": 3} | facts, SOLVE, 1e-6, node).n_bytes
        for facts in ({"crs": "plane"}, {"crs": "lonlat"}, {"name": "airports"})
    )
    assert globe == named < volume


def test_a_job_of_kriging_has_room_for_its_second_factorization_on_every_process():
    node = NodeLimits(n_bytes=1e12, processes=2)
    kriging = predicted_job("solve", FACTS, SOLVE | {"task": "kriging"}, 1e-6, node)
    plain, second = (
        predict_memory("file", FACTS["n"], 2, 1e-6, factor, kriging.processes).solve_bytes
        for factor in (SOLVE["factor"]["tolerance"], 1e-6)
    )
    program = predict_memory("file", 0, 2, 1e-6, 1e-6, 2).solve_bytes
    # Each of three is rounded down to a byte, on two processes of the node.
    assert kriging.n_bytes == pytest.approx(2 * (plain + second - program), abs=6)


def test_a_fit_has_room_for_what_a_million_values_were_measured_to_take():
    plain, fitted, part = (
        predict_memory("file", 10**6, 2, 1e-6, 1.0, 1, fitted=n).compress_bytes for n in (0, 10**6, 1000)
    )
    assert plain == part < 13.7e9 < fitted  # the fit of a million in docs/results.md
    node = NodeLimits(n_bytes=1e12, processes=2)
    asked = {"task": "kriging", "fit": {"subsample": None, "seed": 0}}
    job = predicted_job("compress", FACTS, asked, 1e-6, node)
    assert (
        job.n_bytes
        == 2 * predict_memory("file", 10**6, 2, 1e-6, 1.0, job.processes, fitted=10**6).compress_bytes
    )
    asked["fit"]["subsample"] = 1000
    assert predicted_job("compress", FACTS, asked, 1e-6, node).n_bytes < job.n_bytes


@pytest.mark.parametrize(("n", "most"), [(1280, 439e6), (5120, 733e6)])
def test_a_job_of_scattering_has_room_for_what_two_processes_were_measured_to_take(n, most):
    node = NodeLimits(n_bytes=1e12, processes=2)
    facts = {"name": "sphere", "n": n, "dimension": 3}
    assert predicted_job("solve", facts, {"task": "scattering"}, 1e-5, node).n_bytes >= 2 * most


def test_a_job_with_less_memory_than_was_predicted_is_refused_in_one_line():
    predicted = predict_memory("file", 10**6, 2, 1e-6, 1e-2, 4).solve_bytes
    require_room(predicted, 4, {})  # no Slurm, which would tell
    require_room(predicted, 4, {"SLURM_MEM_PER_NODE": "5000"})
    with pytest.raises(
        ConfigError, match=r"predicted to need .* GB on a node with 4 of its .* gave it 1 GB"
    ) as found:
        require_room(predicted, 4, {"SLURM_MEM_PER_NODE": "1000"})
    assert "\n" not in str(found.value)
