"""Random numbers of estimates depend neither on a user's generator nor on each other."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import pipeline.hmatrix
from pipeline.hmatrix.streams import Purpose, stream

N = 4096


@pytest.mark.parametrize("seed", [0, 1])
def test_no_stream_depends_on_points_that_were_drawn_by_the_same_seed(seed):
    points = np.random.default_rng(seed).random((N, 2))
    drawn = [stream(purpose, seed, rank).standard_normal(N) for purpose in Purpose for rank in (0, 1)]
    of_user = [*points.T, *points.reshape(2, -1), np.random.default_rng(seed).standard_normal(N)]
    correlations = np.corrcoef([*of_user, *drawn]) - np.eye(len(of_user) + len(drawn))
    assert np.abs(correlations[:, len(of_user) :]).max() < 4.8 / math.sqrt(N)


def test_estimates_draw_from_no_other_stream():
    """A generator made of a seed alone may be one that the user has drawn the points from."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(pipeline.hmatrix.__path__[0]).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"= np\.random\.default_rng\((\d+|seed)\)", line)
    ]
    assert not found
