"""Maps of predictions, whose colors leave out extreme places in words."""

import numpy as np
import pytest

from pipeline.report.figures.kriging import deviation_map, kriging_map
from pipeline.report.quantity import Quantity

RAIN = Quantity("rain", "mm", logarithmic=False)


def mapped(grid):
    side = np.arange(float(len(grid)))
    return {"own/grid_x": side, "own/grid_y": side, "own/grid": grid, "own/grid_std": grid}


@pytest.mark.parametrize("draw", [kriging_map, deviation_map])
def test_a_color_bar_that_is_shorter_than_the_map_says_so(draw):
    grid = np.linspace(0.0, 1.0, 400).reshape(20, 20)
    grid[3, 4], grid[5, 6] = -500.0, 500.0
    drawing = draw("own", mapped(grid), RAIN)
    low, high = np.quantile(grid, [0.005, 0.995])
    assert drawing.description.replace("\N{NO-BREAK SPACE}", " ").endswith(
        f"from −500 mm to 500 mm. Colors end at {low:.5f} mm and {high:.3f} mm; 1.0 % of the map is beyond."
    )
    assert "of the map is beyond" in drawing.svg


def test_a_color_bar_of_the_whole_map_says_nothing():
    drawing = kriging_map("own", mapped(np.full((4, 4), 2.0)), RAIN)
    assert drawing.description.endswith("from 2.00 mm to 2.00 mm.")
    assert "beyond" not in drawing.svg
