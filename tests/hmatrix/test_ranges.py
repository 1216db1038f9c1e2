"""Ranges of boxes: what each part owns of a level, by predicted work and speed."""

import numpy as np
import pytest
from scipy.sparse import csr_array, eye_array

from pipeline.hmatrix.admissibility import Strong, interactions
from pipeline.hmatrix.geometry import trees_of
from pipeline.hmatrix.ranges import LEAST, Boxes, PartsWork, at_work, cut


def boxes_alone(n_boxes):
    """Boxes that are near to none but themselves: all of them take equally long, and there are no seams."""
    return Boxes.whole(csr_array(eye_array(n_boxes)), 1.0)


def leaves(dimension, n=4000):
    tree, _ = trees_of(np.random.default_rng(0).random((n, dimension)), None, 16)
    return Boxes.of(tree, interactions(tree, tree, Strong()).near, tree.n_levels - 1)


def work_of(level, cuts):
    n_parts = len(cuts) - 1
    owner = np.repeat(np.arange(n_parts), np.diff(cuts))
    return PartsWork.of(level, owner, n_parts, level.left_with_seams_last(owner)), owner


@pytest.mark.parametrize("n_parts", [1, 2, 3, 5, 8, 16])
def test_ranges_tile_a_level_and_few_boxes_belong_to_few_parts(n_parts):
    for n_boxes in (0, 1, 3, 4, 17, 64):
        cuts = cut(boxes_alone(n_boxes), np.ones(n_parts))
        assert cuts[0] == 0
        assert cuts[-1] == n_boxes
        sizes = np.diff(cuts)
        assert (sizes >= 0).all()
        owning = np.flatnonzero(sizes)
        assert len(owning) <= max(1, n_boxes // (LEAST // 2))
        if n_boxes >= LEAST * n_parts:
            assert sizes.max() - sizes.min() <= 1


def test_speeds_decide_the_sizes():
    assert np.diff(cut(boxes_alone(64), np.array([3.0, 1.0]))).tolist() == [48, 16]
    assert np.diff(cut(boxes_alone(256), np.array([7.0, 1.0]))).tolist() == [224, 32]


def test_a_slow_part_owns_no_boxes_where_it_would_own_few_and_parts_of_like_speed_do():
    assert np.diff(cut(boxes_alone(64), np.array([7.0, 1.0]))).tolist() == [64, 0]
    assert np.diff(cut(boxes_alone(64), np.array([4.0, 1.0, 4.0]))).tolist() == [32, 0, 32]
    assert np.diff(cut(boxes_alone(16), np.array([3.0, 2.0]))).tolist() == [10, 6]


def test_parts_that_have_little_of_all_speed_together_own_nothing():
    assert at_work(1000, np.array([9.0, 1.0])).tolist() == [9, 0]
    assert at_work(1000, np.array([7.0, 1.0])).tolist() == [7, 1]
    assert at_work(1000, np.array([30.0, 2.0, 1.0])).tolist() == [30, 0, 0]
    # Many slow parts are as good as a fast one.
    assert at_work(10000, np.array([10.0, *[1.0] * 8])).tolist() == [10, 1, 1, 1, 1, 1, 1, 1, 1]


def test_few_boxes_go_to_the_fastest_of_those_who_would_share_them():
    assert at_work(6, np.array([2.0, 3.0])).tolist() == [0, 3]
    assert at_work(9, np.array([2.0, 3.0, 3.0, 2.0])).tolist() == [0, 3, 3, 0]
    assert at_work(6, np.ones(2)).tolist() == [1, 0]


@pytest.mark.parametrize("speeds", [(1, 1), (3, 1), (7, 1), (1, 1, 1), (1, 2, 1, 4)])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_parts_take_about_equally_long_with_what_they_apply_of_others(dimension, speeds):
    level, speeds = leaves(dimension), np.array(speeds, float)
    work, owner = work_of(level, cut(level, speeds))
    seconds = work.of_parts(owner, len(speeds)) / speeds
    # A cut falls between boxes, and moving one changes what several of its near boxes cost at the seam.
    near = np.diff(level.near.indptr).max()
    largest = work.own.max() + near * work.applied.max(initial=0.0)
    assert np.ptp(seconds) <= largest * (1 / speeds).max()


def test_work_of_one_part_is_that_of_all_its_boxes_and_a_seam_adds_to_it():
    level = leaves(2)
    n = level.n_boxes
    (whole, alone), (halves, owner) = (
        work_of(level, np.array([0, n])),
        work_of(level, np.array([0, n // 2, n])),
    )
    assert len(whole.applied) == 0
    assert whole.of_parts(alone, 1)[0] == pytest.approx(whole.own.sum())
    # Every block is updated by one of the parts, and those between parts by both.
    touching = np.unique(halves.boxes)
    crossing = [
        b
        for b in range(n)
        if (owner[level.near.indices[slice(*level.near.indptr[b : b + 2])]] != owner[b]).any()
    ]
    assert touching.tolist() == crossing
    half = np.full(level.near.nnz, 0.5)
    one, two = (PartsWork.of(level, who, 2, half) for who in (np.zeros(n, int), owner))
    assert two.of_parts(owner, 2).sum() > one.own.sum()
    inner = np.setdiff1d(np.arange(n), touching)
    assert np.allclose(two.own[inner], one.own[inner])
    assert (two.own[touching] < one.own[touching]).all()


def test_near_boxes_that_went_before_leave_less_work():
    level = leaves(2)
    n = level.n_boxes
    owner = np.zeros(n, int)
    forward = PartsWork.of(level, owner, 1, level.left(np.arange(n)))
    backward = PartsWork.of(level, owner, 1, level.left(np.arange(n)[::-1]))
    assert forward.own[0] > backward.own[0]
    assert forward.own[-1] < backward.own[-1]
