import numpy as np
from matplotlib.colors import to_rgba

from pipeline.report.figures.structure import DENSE, _paint, block_structure


def test_blocks_are_painted_where_they_are():
    n = 1000
    blocks = np.array([[0, 500, 0, 500, -1], [500, 1000, 0, 500, 3], [0, 500, 500, 1000, 3]])
    colors = np.tile([0.0, 0.0, 1.0, 1.0], (3, 1))
    image = _paint(n, blocks, colors)
    assert image.shape == (1000, 1000, 4)
    np.testing.assert_array_equal(image[100, 100], (np.array(to_rgba(DENSE)) * 255).astype(np.uint8))
    np.testing.assert_array_equal(image[700, 100], [0, 0, 255, 255])
    assert image[700, 700, 3] == 0


def test_blocks_smaller_than_a_pixel_still_show():
    n = 10**6
    image = _paint(n, np.array([[0, n, 0, n, 5], [7, 8, 999_998, 999_999, -1]]), np.ones((2, 4)))
    np.testing.assert_array_equal(image[0, -1], (np.array(to_rgba(DENSE)) * 255).astype(np.uint8))


def test_blocks_of_all_sizes_are_painted_as_one_by_one():
    rng = np.random.default_rng(5)
    n = 25 * 32
    corners = 32 * np.stack(np.divmod(rng.permutation(625)[:600], 25), axis=1)
    ends = corners + rng.choice([1, 2, 7, 31], (600, 2))
    table = np.stack([corners[:, 0], ends[:, 0], corners[:, 1], ends[:, 1], np.arange(600)], axis=1)
    colors = rng.uniform(size=(600, 4))
    expected = np.zeros((n, n, 4), dtype=np.uint8)
    for (r0, r1, c0, c1, _), color in zip(table, colors, strict=True):
        border = int(min(r1 - r0, c1 - c0) >= 5)
        expected[r0 : r1 - border, c0 : c1 - border] = (color * 255).astype(np.uint8)
    np.testing.assert_array_equal(_paint(n, table, colors), expected)


def test_two_hundred_thousand_blocks_cost_little():
    side = 450
    n = side * 40
    i, j = (index.ravel() for index in np.indices((side, side)))
    blocks = np.stack(
        [i * 40, i * 40 + 40, j * 40, j * 40 + 40, np.where(abs(i - j) < 2, -1, (i + j) % 17)], axis=1
    )
    drawing = block_structure("many", n, blocks)
    assert "202,500\u00a0blocks" in drawing.description
    assert len(drawing.svg) < 600_000
    found = drawing.data["grid"]
    at = np.add.outer(np.array(found["y"]) // 40, np.array(found["x"]) // 40)
    apart = abs(np.subtract.outer(np.array(found["y"]) // 40, np.array(found["x"]) // 40))
    np.testing.assert_array_equal(found["values"], np.where(apart < 2, -1, at % 17))


def test_without_a_block_of_low_rank_there_is_nothing_to_draw():
    assert block_structure("none", 10, []) is None
    assert block_structure("empty", 10, [[3, 3, 0, 1, 2]]) is None
    assert block_structure("dense", 1, [[0, 1, 0, 1, -1]]) is None
    assert block_structure("one", 1, [[0, 1, 0, 1, 0]]) is not None


def test_each_of_few_blocks_is_told_over_its_whole_area():
    blocks = [[0, 6, 0, 6, -1], [6, 8, 0, 6, 2], [0, 6, 6, 8, 2], [6, 8, 6, 8, -1]]
    drawing = block_structure("few", 8, blocks)
    assert [list(row) for row in drawing.data["rows"]] == blocks
    widths, heights = (np.array([place[side] for place in drawing.data["places"]]) for side in (2, 3))
    np.testing.assert_allclose(widths / widths[0], [1, 1, 1 / 3, 1 / 3], atol=0.01)
    np.testing.assert_allclose(heights / heights[0], [1, 1 / 3, 1, 1 / 3], atol=0.01)
