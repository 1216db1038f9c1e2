"""No process holds what grows with the points of all: the same points a process take the same bytes, however many."""

import threading
import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.hmatrix import DistributedH2Matrix, kernels
from pipeline.hmatrix.admissibility import Strong
from pipeline.hmatrix.distributed.plans import NearBoxes, divided_plans
from pipeline.hmatrix.distributed.problem import parts_boxes
from pipeline.hmatrix.distributed.tree import build_tree
from pipeline.hmatrix.parts import Team
from pipeline.hmatrix.ranges import Boxes
from pipeline.runtime import communicator
from pipeline.runtime.communicator import run_in_threads
from pipeline.runtime.turns import Turns

OWN = 1500  # points of a process


def points_of(comm, n=OWN):
    """Return a process's points on a circle, where every process has two neighbors."""
    angles = 2 * np.pi * (comm.rank + np.random.default_rng(comm.rank).random(n)) / comm.size
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class Measured(Turns):
    """Turns of threads that run one at a time, and the most bytes of arrays that each held at one time."""

    def __init__(self, size):
        super().__init__(size)
        self.held, self.most = Counter(), Counter()

    def take(self, rank):
        super().take(rank)
        tracemalloc.reset_peak()
        self.begun, _ = tracemalloc.get_traced_memory()

    def give(self):
        (now, peak), thread = tracemalloc.get_traced_memory(), threading.get_ident()
        self.most[thread] = max(self.most[thread], self.held[thread] + peak - self.begun)
        self.held[thread] += now - self.begun
        super().give()


def bytes_a_process(n_processes, monkeypatch):
    """Return the most bytes of arrays at one time, and what the parts hold at most: means over the processes."""
    kernel = kernels.Matern(nu=0.5, length_scale=0.3)
    made = []

    def turns(size):
        made.append(Measured(size))
        return made[-1]

    def run(comm):
        points = points_of(comm, 300)
        A = DistributedH2Matrix.from_kernel(points, kernel, comm, diagonal=0.1, tolerance=1e-4, leaf_size=16)
        F = A.factorize(parts=n_processes)
        F.solve(points[:, 0])
        A @ points[:, 1]
        return sum(F.steps.peak_bytes.values())

    tracemalloc.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(communicator, "Turns", turns)
            parts = run_in_threads(n_processes, run)
    finally:
        tracemalloc.stop()
    return np.mean(list(made[0].most.values())), np.mean(parts)


@pytest.fixture(autouse=True)
def _several_levels(monkeypatch):
    monkeypatch.setattr("pipeline.hmatrix.distributed.factor._DENSE_END", 60)


def test_bytes_a_process_stay_as_points_grow_with_processes(monkeypatch):
    few, many = (np.array(bytes_a_process(n_processes, monkeypatch)) for n_processes in (4, 8))
    assert (many <= 1.07 * few).all(), dict(zip(("arrays", "parts"), many / few, strict=True))


def bytes_of_boxes(tree, numbers, first, *lists):
    """Return the bytes of known boxes from `first` on, and of their lists."""
    of_boxes = [tree.start, tree.stop, tree.parent, tree.first_child, tree.lower, tree.upper, numbers]
    of_boxes += [found.start for found in lists]
    members = [found.boxes[found.start[first] :] for found in lists]
    return sum(array[first:].nbytes for array in of_boxes) + sum(part.nbytes for part in members)


def boxes_and_lists(n_processes):
    """Return the bytes of a matrix's boxes and lists, and of those that its parts know, of the process with most.

    Boxes down to the cut, some for each process, are left aside: everybody knows these.
    """

    def run(comm):
        own, _ = build_tree(
            points_of(comm), comm, halvings=6 + int(np.log2(n_processes)), halvings_per_level=2
        )
        division, lists = own.division(Strong(), comm)
        first = int(division.whole.level_start[division.cut + 1])
        team = Team(n_processes, 1, comm)
        plans = divided_plans(NearBoxes(division, lists.near, comm), team)
        matrix = SimpleNamespace(division=division, admissibility=Strong())
        parts = parts_boxes(matrix, plans, team, comm, at_end=division.cut)
        planned = sum(plan.n_bytes for plan in parts.plan.levels[division.cut + 1 :])
        return (
            bytes_of_boxes(division.tree, division.numbers, first, lists.near, lists.far),
            bytes_of_boxes(parts.tree, parts.plan.numbers, first, parts.near, parts.far) + planned,
        )

    return np.max(run_in_threads(n_processes, run), axis=0)


def test_boxes_and_lists_a_process_stay_as_points_grow_with_processes():
    few, many = boxes_and_lists(4), boxes_and_lists(16)
    assert (many <= 1.15 * few).all(), dict(zip(("matrix", "parts"), many / few, strict=True))


def most_told_to_all(n_halvings, monkeypatch):
    """Return how many numbers a process tells all others at most at one time, while a level of a square is planned."""
    told = []
    tell = Boxes.everybodys

    def tell_too(boxes, own):
        told.append(own.size)
        return tell(boxes, own)

    monkeypatch.setattr(Boxes, "everybodys", tell_too)

    def run(comm):
        points = np.random.default_rng(comm.rank).random((2**n_halvings, 2))
        own, _ = build_tree(points, comm, halvings=n_halvings, halvings_per_level=2)
        division, lists = own.division(Strong(), comm)
        return len(divided_plans(NearBoxes(division, lists.near, comm), Team(4, 1, comm)))

    run_in_threads(4, run)
    return max(told)


def test_seams_are_planned_by_their_owners(monkeypatch):
    few, many = (most_told_to_all(halvings, monkeypatch) for halvings in (6, 10))
    assert many <= 1.5 * few  # seams are four times as long
