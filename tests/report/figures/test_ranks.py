from pipeline.artifacts.results.operator import Level
from pipeline.report.figures.structure import ranks_by_level

LEVELS = [Level(level=level, boxes=4**level, unknowns=1, skeletons=1, bytes=1) for level in (1, 2)]


def test_ranks_are_told_level_by_level():
    blocks = [[0, 25, 75, 100, 9], [25, 50, 75, 100, 5], [0, 25, 50, 75, 8]]
    blocks += [[0, 7, 50, 56, 3], [7, 13, 56, 62, 0], [0, 7, 0, 7, -1]]
    drawing = ranks_by_level("one", 100, blocks, LEVELS)
    assert (
        drawing.description
        == "Median rank of the far blocks: 8 at level 1 (5 to 9) and 2 at level 2 (0 to 3)."
    )


def test_no_far_blocks_no_drawing():
    assert ranks_by_level("none", 10, [], LEVELS) is None
    assert ranks_by_level("dense", 10, [[0, 10, 0, 10, -1]], LEVELS) is None
    assert ranks_by_level("untold", 10, [[0, 5, 5, 10, 2]], []) is None
