"""Divisions into training and validation samples, and into known and held-out points, fixed by a seed alone.

The test part of an image set is that of its makers and is not divided here. Each draw has its own generator, so a seed
means the same in every process.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import ImageSet
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """Indices into an image set's training part; the two have no index in common.

    Attributes:
        train: Shape (train_samples,), int64, in random order.
        validation: Shape (validation_samples,), int64, in random order.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def split(image_set: ImageSet, *, train_samples: int | None, validation_samples: int, seed: int) -> Split:
    """Divide the training part into training and validation samples, both stratified by class.

    All samples are put in a random order whose every prefix has each class in its share (`stratified_order`). The
    validation samples come first, so they do not depend on the number of training samples, and fewer training samples
    are part of more.

    Args:
        image_set: The images whose training part is divided.
        train_samples: How many to train on; `None` takes all but the validation samples.
        validation_samples: How many to validate on; 0 is allowed.
        seed: Seed of the order.

    Raises:
        ConfigError: If more samples are asked for than there are, or fewer than one to train on.
    """
    n_available = len(image_set.train_labels)
    n_train = n_available - validation_samples if train_samples is None else train_samples
    if validation_samples < 0 or n_train < 1 or n_train + validation_samples > n_available:
        wanted = "all remaining" if train_samples is None else str(train_samples)
        raise ConfigError(
            f"wanted {wanted} training and {validation_samples} validation samples, found {n_available} in "
            "the data set; lower dataset.train_samples or dataset.validation_samples, with at least one "
            "to train on"
        )
    order = stratified_order(image_set.train_labels, seed=seed)
    return Split(
        train=order[validation_samples : validation_samples + n_train], validation=order[:validation_samples]
    )


def stratified_order(labels: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Order samples at random so that every prefix holds each class in its share of the whole.

    Within a random permutation, the j-th sample of a class of m gets the position (j + u) / m, with one
    random offset u in (0, 1) for the class; sorting by position interleaves the classes. A prefix that ends
    at position t holds between t m - 1 and t m + 1 of each class. Hence with K classes and n samples in all, the number
    of a class in any prefix differs from its share by less than 1 + K m / n samples, which is 2 if the classes are
    equally large.

    Args:
        labels: Shape (n,), integers.
        seed: Seed of the permutation and the offsets.

    Returns:
        A permutation of 0..n-1, shape (n,), int64.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        position[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return order[np.argsort(position, kind="stable")]


def hold_out(n_points: int, *, n_held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose points to hold out by a plain random permutation; both index arrays come sorted.

    Returns:
        The kept and the held-out indices, int64, disjoint, together 0..n_points-1.

    Raises:
        ConfigError: If `n_held_out` is negative, or no point would be kept.
    """
    if not 0 <= n_held_out < n_points:
        raise ConfigError(f"wanted to hold out {n_held_out} of {n_points} points; choose 0 to {n_points - 1}")
    held_out = np.sort(np.random.default_rng(seed).permutation(n_points)[:n_held_out])
    # The permutation is already freed; with many rows it takes much memory.
    is_kept = np.ones(n_points, np.bool_)
    is_kept[held_out] = False
    return np.flatnonzero(is_kept), held_out


def n_held_out_of(n: int, part: float) -> int:
    """Return the number of points that are held out of n.

    Raises:
        ConfigError: If none is held out though some should be, or fewer than two are left.
    """
    n_held_out = round(part * n)
    if part and not 0 < n_held_out < n - 1:
        places = "place" if n == 1 else "places"
        raise ConfigError(
            f"held_out: {part:g} of {n:,} {places} holds out {n_held_out:,} and leaves {n - n_held_out:,}; wanted at "
            "least 1 and 2, so choose another part, or give more places"
        )
    return n_held_out


def drawn_and_held_out(
    n: int, *, wanted: int | None, part: float, seed: int, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw rows of a file; return the known and the held-out ones, both sorted.

    Args:
        n: Rows of the file.
        wanted: Number of rows to draw; None takes all.
        part: Part of the drawn rows that is held out.
        seed: Seed of both draws.
        path: The file, for the message.

    Raises:
        ConfigError: If there are fewer rows than wanted, or `n_held_out_of` refuses the part.
    """
    if wanted is None:
        return hold_out(n, n_held_out=n_held_out_of(n, part), seed=seed)
    if wanted > n:
        raise ConfigError(f"n: wanted {wanted} points of {path}, found {n}; choose 1 to {n}")
    drawn = np.sort(np.random.default_rng(seed).permutation(n)[:wanted])
    kept, held_out = hold_out(wanted, n_held_out=n_held_out_of(wanted, part), seed=seed)
    return drawn[kept], drawn[held_out]
