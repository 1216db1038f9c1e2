"""Tables and blocks of divided matrices against those of the serial one, and what processes tell of themselves."""

import numpy as np
import pytest

from pipeline.hmatrix import DistributedH2Matrix, H2Matrix, kernels
from pipeline.runtime.communicator import run_in_threads

POINTS = np.random.default_rng(0).random((700, 2))
COVARIANCE = kernels.Matern(nu=0.5, length_scale=0.3)
SKEWED = kernels.Custom(lambda x, y: COVARIANCE(x, y) * (1 + 0.1 * x[..., :1]))


SHARED = [
    pytest.param(kernel, n_processes, id=f"{name}-{n_processes}")
    for kernel, name, n_processes in (
        (COVARIANCE, "symmetric", 1), (SKEWED, "not symmetric", 2), (COVARIANCE, "symmetric", 5)
    )
]  # fmt: skip


def together(n_processes, work, kernel=COVARIANCE, **options):
    edges = np.arange(n_processes + 1) * len(POINTS) // n_processes

    def run(comm):
        own = POINTS[edges[comm.rank] : edges[comm.rank + 1]]
        return work(DistributedH2Matrix.from_kernel(own, kernel, comm, leaf_size=16, **options))

    return run_in_threads(n_processes, run)


@pytest.mark.parametrize(("kernel", "n_processes"), SHARED)
def test_levels_have_the_boxes_and_blocks_of_the_serial_matrix(n_processes, kernel):
    serial = H2Matrix.from_kernel(POINTS, kernel, diagonal=0.1, leaf_size=16).structure()
    tables = together(n_processes, lambda A: A.level_table(), kernel, diagonal=0.1)
    assert all(table == tables[0] for table in tables)
    for row, expected in zip(tables[0], serial["levels"], strict=True):
        for name in ("level", "boxes", "near_blocks", "far_blocks"):
            assert row[name] == expected[name], (name, row["level"])
    assert tables[0][-1]["unknowns"] == len(POINTS)


@pytest.mark.parametrize(("kernel", "n_processes"), SHARED)
def test_the_blocks_of_a_plot_cover_the_matrix_once(n_processes, kernel):
    shown, *others = together(n_processes, lambda A: A.shown_blocks(), kernel)
    blocks, left_out = shown
    assert left_out == 0
    assert all(len(rows) == 0 for rows, _ in others)
    covered = np.zeros((len(POINTS), len(POINTS)), int)
    for first, last, low, high, _ in blocks:
        covered[first:last, low:high] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("n_processes", [1, 3])
def test_statistics_sum_up_to_what_is_held_and_done(n_processes):
    def work(A):
        F = A.factorize(1e-4, parts=n_processes)
        A @ np.ones(A.n_own_rows)
        return A.n_bytes, F.n_bytes, A.statistics(), F.statistics(), F.steps.tally

    found = together(n_processes, work, diagonal=0.1)
    matrix, factor = found[0][2], found[0][3]
    assert all(part[2] == matrix for part in found) or n_processes > 1
    assert matrix["n_bytes"] == [part[0] for part in found]
    assert sum(matrix["rows"]) == len(POINTS)
    for process, (n_bytes, factor_bytes, _, _, tally) in enumerate(found):
        rows = [row for row in matrix["levels"] if row["process"] == process]
        # Lists of skeletons and orders are in the sum alone.
        assert 0.5 * n_bytes < sum(row["bytes"] for row in rows) <= n_bytes
        for name, sums in (
            ("sent_bytes", "sent_bytes"),
            ("messages", "calls"),
            ("waiting_seconds", "waiting_seconds"),
        ):
            # Of all levels at once are samples, far boxes, checks, and vectors in the caller's order.
            assert sum(row[name] for row in rows) <= matrix[sums][process]
            assert (rows[-1][name] > 0) == (n_processes > 1)
        rows = [row for row in factor if row["process"] == process]
        records = sum(count for (_, _, part), count in tally.n_bytes.items() if part == process)
        assert sum(row["sent_bytes"] for row in rows) >= records
        assert sum(row["bytes"] for row in rows) == factor_bytes
        flops = sum(sum(by_part.values()) for by_part in tally.flops.values())
        assert sum(row["flops"] for row in rows) == pytest.approx(flops)
        assert (sum(row["messages"] for row in rows) > 0) == (n_processes > 1)
        assert (sum(row["waiting_seconds"] for row in rows) > 0) == (n_processes > 1)
