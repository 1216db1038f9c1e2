"""Who owns which boxes, in which order, and who is told: the static plan of a level."""

import numpy as np
import pytest

from pipeline.hmatrix.admissibility import Strong, Weak, interactions
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.partition import SIZES, UPDATES, partition_level


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
    for b, f in pairs_of(tree, near, level):
        if plan.owner[b] != plan.owner[f]:
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
    owner = plan.owner
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
                    assert plan.told[boxes[i]] >= (UPDATES if needed else SIZES)


def test_weak_admissibility_has_no_seams():
    tree, near = near_lists(1, rule=Weak())
    plan = partition_level(tree, near, tree.n_levels - 1, 5)
    assert plan.n_phases == 1
    assert len(plan.ghosts) == 0
