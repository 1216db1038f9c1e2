"""The far field of a scattered wave."""

from collections.abc import Mapping

import numpy as np

from pipeline.report.drawing import PALETTE, Data, Drawing, canvas, finish
from pipeline.report.formatting import significant

_FLOOR = 60.0  # decibels below the greatest value: deeper notches are not told from errors


def far_field(name: str, arrays: Mapping[str, np.ndarray]) -> Drawing | None:
    """Draw the scattered power against the angle from the incident wave, in two perpendicular planes."""
    angles, field = arrays.get(f"{name}/angle"), arrays.get(f"{name}/far_field")
    if angles is None or field is None or field.shape != (2, len(angles)):
        return None
    sizes = np.abs(field)
    top = float(sizes.max(initial=0.0))
    if not np.isfinite(sizes).all() or top <= 0:
        return None
    decibels = 20 * np.log10(np.maximum(sizes, top * 10 ** (-_FLOOR / 20)))
    data = Data(("angle in degrees", "|f| in the first plane", "|f| in the second plane"))
    with canvas(6.9, 3.2) as figure:
        axes = figure.add_subplot()
        for plane, color, style, label in (
            (0, "series-1", "-", "first plane"),
            (1, "series-3", "--", "second plane"),
        ):
            axes.plot(
                angles, decibels[plane], color=PALETTE[color], linestyle=style, linewidth=1.4, label=label
            )
        for angle, first, second, height in zip(angles, *sizes, decibels[0], strict=True):
            data.add(axes, angle, height, float(angle), float(first), float(second))
        axes.set_xlim(0, 360)
        axes.set_xticks(np.arange(0, 361, 60))
        axes.set_xlabel("angle from the incident wave (degrees)")
        axes.set_ylabel("20 log₁₀ |f|")
        axes.set_title("Far field")
        axes.legend()
        at = float(angles[sizes.max(axis=0).argmax()])
        words = (
            f"Far field f of the scattered wave f exp(i k r)/r, in two perpendicular planes through the direction of "
            f"the incident wave; |f| is greatest at {significant(at)} degrees, {significant(top)} units of the mesh."
        )
        return finish(figure, name=f"far-field-{name}", description=words, data=data)
