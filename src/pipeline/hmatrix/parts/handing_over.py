"""Handing boxes over from the parts that own them to the parts that own their parents."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.hmatrix.partition import LevelPartition
from pipeline.hmatrix.parts.stages import Moved
from pipeline.hmatrix.parts.team import Message, Team
from pipeline.hmatrix.ranges import owners


def hand_over(
    parts: Mapping[int, Any],
    team: Team,
    arity: int,
    plan: LevelPartition,
    heirs: NDArray[np.int32],
    above: LevelPartition | None,
) -> Moved:
    """Send blocks and unknowns of boxes to their new owners, and unknowns to the parts whose ghosts they become.

    Collective.

    Args:
        parts: Parts of this process.
        team: All parts, their processes and threads.
        arity: Children per box.
        plan: The level.
        heirs: Shape (parts + 1,), where the ranges of the new owners start.
        above: The level above; None at the dense end, where there are no ghosts.

    Returns:
        The unknowns that leave each part of this process, by old and new owner.
    """
    told: dict[tuple[int, int], Message] = {}
    handed: dict[tuple[int, int], Message] = {}
    moved: Moved = {}
    for number, part in parts.items():
        boxes = np.arange(*plan.cuts[number : number + 2], dtype=np.int32)
        heir = owners(heirs, boxes)
        parents = boxes // arity
        ghosts = np.zeros((0, 2), np.int32) if above is None else above.ghosts_among(parents)
        for other in np.union1d(heir, ghosts[:, 1]).tolist():
            if other == number:
                continue
            inherited = np.asarray(heir == other)
            known = inherited | np.isin(parents, ghosts[ghosts[:, 1] == other, 0])
            chosen = plan.first + boxes[known]
            start, points = part.points(chosen)
            told[number, other] = chosen.astype(np.int32), start, points
            if inherited.any():
                leaving = boxes[inherited]
                first, last = plan.first + int(leaving[0]), plan.first + int(leaving[-1]) + 1
                low, high = (plan.first + int(heirs[other + i]) for i in range(2))
                handed[number, other] = part.blocks(first, last, low, high)
                moved[number, other] = part.points(np.arange(first, last, dtype=np.int32))[1]
    for destination, messages in team.exchange("ghosts", plan.level, told).items():
        for _, message in messages:
            parts[destination].set_points(*message)
    for destination, messages in team.exchange("blocks", plan.level, handed).items():
        for _, message in messages:
            parts[destination].add_blocks(*message)
    return moved
