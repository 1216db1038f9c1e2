"""Who owns which boxes, in which order, and who is told: the static plan of a level."""

import numpy as np
import pytest

from pipeline.hmatrix.admissibility import Strong, Weak, interactions
from pipeline.hmatrix.distributed.plans import NearBoxes, divided_plans
from pipeline.hmatrix.distributed.tree import build_tree
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.partition import SIZES, UPDATES, partition_level
from pipeline.hmatrix.parts import Team
from pipeline.runtime.communicator import run_in_threads


def near_lists(dimension, n=1000, rule=None, leaf_size=8):
    tree, _ = trees_of(np.random.default_rng(0).random((n, dimension)), None, leaf_size)
    return tree, interactions(tree, tree, rule or Strong()).near


def pairs_of(tree, near, level):
    first, last = tree.level_start[level : level + 2]
    return {
        (b - first, int(f) - first)
        for b in range(first, last)
        for f in near.boxes[near.start[b] : near.start[b + 1]]
    }


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("n_parts", [1, 2, 3, 8])
def test_near_boxes_of_different_parts_have_different_turns(dimension, n_parts):
    tree, near = near_lists(dimension)
    level = tree.n_levels - 1
    plan = partition_level(tree, near, level, n_parts)
    owner = plan.owner(np.arange(plan.n_boxes))
    for b, f in pairs_of(tree, near, level):
        if owner[b] != owner[f]:
            assert plan.phase[b] != plan.phase[f]
    eliminated = np.concatenate(
        [plan.boxes_of(part, phase) for phase in range(plan.n_phases) for part in range(n_parts)]
    )
    assert sorted(eliminated.tolist()) == list(range(plan.n_boxes))


@pytest.mark.parametrize("dimension", [1, 2, 3])
@pytest.mark.parametrize("n_parts", [2, 3, 8])
def test_updates_go_to_near_parts_and_sizes_to_those_within_two_steps(dimension, n_parts):
    tree, near = near_lists(dimension)
    level = tree.n_levels - 1
    plan = partition_level(tree, near, level, n_parts)
    one = pairs_of(tree, near, level)
    two = {(a, c) for a, b in one for b2, c in one if b == b2} if plan.n_boxes <= 200 else None
    owner = plan.owner(np.arange(plan.n_boxes))
    wanted = sorted({(b, int(owner[f])) for b, f in one if owner[b] != owner[f]})
    assert list(map(tuple, plan.updated.tolist())) == wanted
    if two is not None:
        ghosts = sorted({(b, int(owner[f])) for b, f in two if owner[b] != owner[f]})
        assert list(map(tuple, plan.ghosts.tolist())) == ghosts
    for part in range(n_parts):
        known = plan.known_to(part)
        assert set(np.flatnonzero(owner == part)) <= set(known.tolist())
        for phase in range(plan.n_phases):
            boxes = plan.boxes_of(part, phase)
            told = plan.listeners(boxes)
            for other, (chosen, with_update) in told.items():
                for i, needed in zip(chosen, with_update, strict=True):
                    assert ((boxes[i], other) in wanted) == needed
                    assert boxes[i] in plan.known_to(other)
                    assert plan.told(boxes[[i]])[0] >= (UPDATES if needed else SIZES)


def test_weak_admissibility_has_no_seams():
    tree, near = near_lists(1, rule=Weak())
    plan = partition_level(tree, near, tree.n_levels - 1, 5)
    assert plan.n_phases == 1
    assert len(plan.ghosts) == 0


# The dimension decides what lists a box has, and the number of processes who owns it: the two meet in the plane alone.
@pytest.mark.parametrize(("dimension", "n_processes"), [(1, 9), (2, 2), (2, 5), (2, 9), (3, 2)])
def test_processes_that_know_their_own_lists_plan_what_one_does_that_knows_all(dimension, n_processes):
    # Leaves of seven or eight points in one dimension and two; 512 in three, where fewer are all within two steps.
    points = np.random.default_rng(0).random((700 if dimension == 3 else 500, dimension))
    speeds = np.array([1.0, 2.0, 1.0, 3.0, 1.0, 1.0])
    tree, _ = trees_of(points, None, 8)
    near = interactions(tree, tree, Strong()).near
    per_level = int(np.log2(tree.arity))
    halvings = int(np.log2(len(tree.level(tree.n_levels - 1))))

    def run(comm):
        own, _ = build_tree(
            np.array_split(points, n_processes)[comm.rank],
            comm,
            halvings=halvings,
            halvings_per_level=per_level,
        )
        division, lists = own.division(Strong(), comm)
        team = Team(len(speeds), 1, comm, speeds)
        return team.own, divided_plans(NearBoxes(division, lists.near, comm), team)

    found = run_in_threads(n_processes, run)
    assert sorted(part for parts, _ in found for part in parts) == list(range(len(speeds)))
    for level in range(tree.n_levels):
        whole = partition_level(tree, near, level, len(speeds), speeds)
        for parts, plans in found:
            plan, numbers, lists = plans[level].partition, plans[level].numbers_on_level, plans[level].near
            assert np.array_equal(plan.places, whole.places)
            assert np.array_equal(plan.cuts, whole.cuts)
            assert plan.n_phases == whole.n_phases
            for part in parts:
                assert np.array_equal(plan.known_to(part), whole.known_to(part))
                own = np.arange(*whole.cuts[part : part + 2])
                assert np.array_equal(plan.told(own), whole.told(own))
                if level + 1 < tree.n_levels:
                    below = plans[level + 1].partition
                    parents = np.arange(*below.cuts[part : part + 2]) // tree.arity
                    assert np.array_equal(plan.ghosts_among(parents), whole.ghosts_among(parents))
                for phase in range(whole.n_phases):
                    boxes = plan.boxes_of(part, phase)
                    assert np.array_equal(boxes, whole.boxes_of(part, phase))
                    told, wanted = plan.listeners(boxes), whole.listeners(boxes)
                    assert told.keys() == wanted.keys()
                    for other in told:
                        assert all(map(np.array_equal, told[other], wanted[other]))
                for box in own:
                    members = near.boxes[slice(*near.start[whole.first + box :][:2])] - whole.first
                    for b in (box, *members):
                        listed = numbers[lists[[np.searchsorted(numbers, b)]].indices]
                        wanted = near.boxes[slice(*near.start[whole.first + b :][:2])] - whole.first
                        assert np.array_equal(listed, wanted)
