import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.report.drawing import canvas
from pipeline.report.figures.axes import logarithmic


@pytest.mark.parametrize("high", [35, 80, 300, 2_560, 9_000, 60_000, 3e7])
@pytest.mark.parametrize("width", [2.0, 5.0, 9.0])
def test_labels_of_a_logarithmic_axis_stand_apart(width, high):
    with canvas(width, 2.4) as figure:
        axes = figure.add_subplot()
        axes.plot([12, high], [0, 1])
        logarithmic(axes, "x")
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        boxes = [label.get_window_extent(renderer) for label in axes.get_xticklabels() if label.get_text()]
    shown = [box for box in boxes if 0 <= (box.x0 + box.x1) / 2 <= figure.bbox.width]
    gaps = [right.x0 - left.x1 for left, right in itertools.pairwise(shown)]
    assert shown
    assert min(gaps, default=3.0) >= 3.0 * figure.dpi / 72
