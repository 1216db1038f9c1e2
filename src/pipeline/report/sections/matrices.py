"""The section on hierarchical matrices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.report import tables
from pipeline.report.answers.numbers import fit_text, result_text
from pipeline.report.content import Block, Facts, Heading, Illustration, Prose, Section, Table
from pipeline.report.distribution import distribution
from pipeline.report.facts import matrix_facts
from pipeline.report.figures.growth import exponents, growth
from pipeline.report.figures.kriging import (
    coverage_plot,
    deviation_map,
    held_out_scatter,
    kriging_map,
    variogram_plot,
)
from pipeline.report.figures.ranks import ranks_by_level
from pipeline.report.figures.structure import block_structure
from pipeline.report.formatting import is_number, setting
from pipeline.report.quantity import Quantity
from pipeline.report.runs import n_classes_of
from pipeline.report.solutions import doubt


def matrices_section(metrics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Section | None:
    """Show what each matrix was for, its structure and its costs; then growth with N."""
    matrices, scaling = metrics.get("matrices") or {}, metrics.get("scaling")
    rows = (scaling or {}).get("rows") or []
    if not matrices and not rows:
        return None
    blocks: list[Block | None] = []
    for name, matrix in matrices.items():
        blocks += _matrix(name, matrix, arrays, n_classes_of(metrics))
    if scaling and rows:
        blocks += _growth(scaling, rows)
    lead = (
        "Dense matrices kept as hierarchical low-rank ones (H²): what is far away is described through a few "
        "skeleton points, so that storage grows with N and not with N²."
    )
    return Section("numbers", "Fewer numbers", lead, tuple(block for block in blocks if block is not None))


def _matrix(
    name: str, matrix: Mapping[str, Any], arrays: Mapping[str, np.ndarray], n_classes: int
) -> list[Block | None]:
    text = result_text(name, matrix, n_classes)
    notes = [note for key in ("compress", "solve") for note in (matrix.get(key) or {}).get("notes") or []]
    return [
        Heading(name),
        Prose(text) if text else None,
        doubt(name, matrix),
        Prose(fit_text(matrix)) if fit_text(matrix) else None,
        *_kriging(name, matrix, arrays),
        _structure(name, matrix),
        Facts(matrix_facts(matrix)),
        Prose(f"Noted on the way: {'; '.join(str(note) for note in notes)}.", quiet=True) if notes else None,
        tables.levels(matrix),
        *distribution(matrix),
    ]


def _structure(name: str, matrix: Mapping[str, Any]) -> Illustration | None:
    """The blocks and, beside them, their ranks by level, with what they mean."""
    structure = matrix.get("structure") or {}
    n, blocks = int(structure.get("n") or matrix.get("n") or 0), structure.get("blocks", ())
    found = (block_structure(name, n, blocks), ranks_by_level(name, n, blocks, structure.get("levels", ())))
    panels = tuple(panel for panel in found if panel is not None)
    if not panels:
        return None
    caption = (
        f"{panels[0].description} Rows and columns are in tree order, so that what is near in space is near in the "
        "matrix. Orange blocks couple near points and are kept whole; blue ones couple far boxes and are kept as "
        "products of as many columns as their rank says."
    )
    if len(panels) > 1:
        caption += (
            " Right: the median rank of the far blocks of each level, with bars over all of them. Storage grows like "
            "N where ranks do not grow with the boxes, that is, to the left."
        )
    return Illustration(panels, caption, shape="pair" if len(panels) > 1 else "single")


def _kriging(name: str, matrix: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[Block]:
    quantity = Quantity.of(matrix.get("result") or {})
    blocks: list[Block] = []
    found = (kriging_map(name, arrays, quantity), held_out_scatter(name, arrays, quantity))
    panels = tuple(panel for panel in found if panel is not None)
    if panels:
        caption = f"The {quantity.name} that kriging predicts from the known points" + (
            ", and how it compares where the truth was held out (dashed: equal)." if len(panels) > 1 else "."
        )
        blocks.append(Illustration(panels, caption, shape="map" if len(panels) > 1 else "single"))
    deviations = deviation_map(name, arrays, quantity)
    if deviations is not None:
        caption = f"{deviations.description} The noise of single observations is not included."
        blocks.append(Illustration((deviations,), caption, shape="single"))
    checks = tuple(
        panel for panel in (coverage_plot(name, arrays), variogram_plot(name, arrays)) if panel is not None
    )
    if checks:
        blocks.append(Illustration(checks, " ".join(panel.description for panel in checks)))
    return blocks


def _growth(scaling: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Block | None]:
    panels = growth(rows)
    fitted = exponents(rows)
    what = " · ".join(str(scaling[key]) for key in ("kernel", "points") if scaling.get(key))
    tolerance = scaling.get("tolerance")
    text = f"{what}{f', tolerance {setting(tolerance)}' if is_number(tolerance) else ''}."
    table: Table | None = tables.scaling(scaling, fitted)
    caption = (
        f"Storage and time against N{', with fitted powers' if fitted else ''}; dashed, what the dense matrix "
        f"would take.{'' if fitted else ' The sizes are too few or too small to tell powers of N.'}"
    )
    picture = Illustration(tuple(panels), caption) if panels else None
    return [Heading("Growth with N"), Prose(text) if what else None, picture, table]
