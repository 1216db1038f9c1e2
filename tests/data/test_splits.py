import hashlib
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from pipeline.data import ImageSet, hold_out, split, stratified_order
from pipeline.errors import ConfigError


def image_set(labels):
    images = np.zeros((len(labels), 2, 2), dtype=np.uint8)
    return ImageSet(images, np.asarray(labels), images[:0], np.zeros(0, dtype=np.int64), [], "a test")


LABELS = np.random.default_rng(0).integers(0, 10, size=997)
UNEQUAL = np.repeat([0, 1, 2, 3], [500, 90, 7, 1])


@pytest.mark.parametrize(
    ("train", "validation"), [(1, 0), (1, 1), (101, 53), (900, 97), (997, 0), (None, 97)]
)
def test_the_parts_are_disjoint_and_have_the_sizes_asked_for(train, validation):
    parts = split(image_set(LABELS), train_samples=train, validation_samples=validation, seed=3)
    assert len(parts.train) == (train or 997 - validation)
    assert len(parts.validation) == validation
    together = np.concatenate([parts.train, parts.validation])
    assert len(np.unique(together)) == len(together)
    assert together.dtype == np.int64


def test_validation_does_not_depend_on_how_many_are_trained_on():
    few = split(image_set(LABELS), train_samples=50, validation_samples=97, seed=3)
    many = split(image_set(LABELS), train_samples=900, validation_samples=97, seed=3)
    np.testing.assert_array_equal(few.validation, many.validation)
    np.testing.assert_array_equal(few.train, many.train[:50])


def test_another_seed_is_another_split():
    first, second = (
        split(image_set(LABELS), train_samples=500, validation_samples=97, seed=seed) for seed in (0, 1)
    )
    assert not np.array_equal(first.train, second.train)


@pytest.mark.parametrize("labels", [LABELS, UNEQUAL, np.arange(10), np.zeros(13, dtype=np.int64)])
def test_every_prefix_has_each_class_in_its_share(labels):
    ordered = labels[stratified_order(labels, seed=5)]
    classes, counts = np.unique(labels, return_counts=True)
    prefix = np.arange(1, len(labels) + 1)
    for label, count in zip(classes, counts, strict=True):
        share = prefix * count / len(labels)
        found = np.cumsum(ordered == label)
        assert np.abs(found - share).max() < 1 + len(classes) * count / len(labels)


def test_within_a_class_the_order_is_random():
    order = stratified_order(np.zeros(1000, dtype=np.int64), seed=0)
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_the_order_of_few_samples_is_a_permutation(n):
    np.testing.assert_array_equal(np.sort(stratified_order(np.arange(n), seed=0)), np.arange(n))


IMPOSSIBLE = [(998, 0), (900, 98), (0, 10), (-1, 10), (5, -1), (None, 997)]


@pytest.mark.parametrize(("train", "validation"), IMPOSSIBLE)
def test_more_than_there_is_or_nothing_to_train_on_is_refused_with_numbers(train, validation):
    with pytest.raises(ConfigError, match=rf"{validation} validation samples, found 997 in"):
        split(image_set(LABELS), train_samples=train, validation_samples=validation, seed=0)


def test_another_process_makes_the_same_split():
    program = (
        "import hashlib, numpy as np; from pipeline.data import stratified_order, hold_out;"
        "order = stratified_order(np.arange(997) % 10, seed=7); kept, held = hold_out(101, n_held_out=11, seed=7);"
        "print(hashlib.sha256(order.tobytes() + held.tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    order, (_, held) = stratified_order(np.arange(997) % 10, seed=7), hold_out(101, n_held_out=11, seed=7)
    assert digests == {hashlib.sha256(order.tobytes() + held.tobytes()).hexdigest()}


@pytest.mark.parametrize("n_held_out", [0, 1, 13, 96])
def test_held_out_and_kept_points_are_all_points_once(n_held_out):
    kept, held_out = hold_out(97, n_held_out=n_held_out, seed=2)
    assert len(held_out) == n_held_out
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(97))


def test_dividing_points_holds_one_number_and_one_mark_for_each():
    n = 100_003
    hold_out(n, n_held_out=7, seed=0)
    tracemalloc.start()
    hold_out(n, n_held_out=10_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * n * 8 + n


@pytest.mark.parametrize("n_held_out", [-1, 97, 98])
def test_holding_out_all_points_is_refused(n_held_out):
    with pytest.raises(ConfigError, match=f"wanted to hold out {n_held_out} of 97 points; choose 0 to 96"):
        hold_out(97, n_held_out=n_held_out, seed=2)
