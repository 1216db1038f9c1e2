"""Random numbers that depend on where they are used, not on who draws them or what was drawn before.

A generator is keyed by the run's seed, the purpose and the position (epoch, or step and micro-batch). So any
process can draw the numbers of any micro-batch, and a resumed run draws the same as an undisturbed one.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for; each purpose has a stream of its own."""

    ORDER = 0
    BATCH = 1
    WEIGHTS = 2
    FISHER = 3
    EXPLORATION = 4
    SHARPNESS = 5
    SEARCH = 6


def generator(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """Return the generator of this seed, purpose and position; all must be non-negative."""
    return np.random.default_rng([seed, purpose, *position])
