"""The section on hierarchical matrices."""

from collections.abc import Mapping

import numpy as np

from pipeline.report import tables
from pipeline.report.answers.numbers import fit_text, result_text
from pipeline.report.content import Block, Heading, Illustration, NamedValues, PageSection, Prose
from pipeline.report.distribution import distribution
from pipeline.report.facts import kernel_text, matrix_facts
from pipeline.report.figures.growth import exponents, growth
from pipeline.report.figures.kriging import (
    coverage_plot,
    deviation_map,
    held_out_scatter,
    kriging_map,
    variogram_plot,
)
from pipeline.report.figures.ranks import ranks_by_level
from pipeline.report.figures.scattering import far_field, surface_field
from pipeline.report.figures.structure import block_structure
from pipeline.report.first_screen import drawn_first, has_deviations
from pipeline.report.formatting import listing, setting
from pipeline.report.metrics import MatrixMetrics, Metrics, ScalingMetrics
from pipeline.report.quantity import Quantity
from pipeline.report.runs import n_classes_of, said_beside
from pipeline.report.solutions import doubt


def matrices_section(metrics: Metrics, arrays: Mapping[str, np.ndarray]) -> PageSection | None:
    """Show what each matrix was for, its structure and its costs; then growth with N."""
    matrices, scaling = metrics.matrices, metrics.scaling
    if not matrices and scaling is None:
        return None
    blocks: list[Block | None] = []
    first = drawn_first(metrics, arrays)
    for name, matrix in matrices.items():
        # What stands on the first screen is not shown twice.
        blocks += _matrix(name, matrix, arrays, metrics, on_top=name == first)
    if scaling is not None:
        blocks += _growth(scaling)
    lead = (
        "Dense matrices are kept as hierarchical ones of low rank (H²): a few skeleton points describe what is far "
        "away, so that storage grows with N and not with N²."
    )
    low_rank = [name for name, matrix in matrices.items() if matrix.compress.form == "low_rank"]
    if low_rank:
        kept = f"{listing(low_rank)} {'is' if len(low_rank) == 1 else 'are each'} kept"
        lead += (
            " Points in many dimensions have hardly anything that is far away: "
            f"{kept} as one product of low rank and a diagonal."
        )
    return PageSection(
        "numbers", "Fewer numbers", lead, tuple(block for block in blocks if block is not None)
    )


def _matrix(
    name: str, matrix: MatrixMetrics, arrays: Mapping[str, np.ndarray], metrics: Metrics, *, on_top: bool
) -> list[Block | None]:
    notes = [*matrix.compress.notes, *(matrix.solve.notes if matrix.solve is not None else [])]
    return [
        Heading(name),
        Prose(result_text(name, matrix, n_classes_of(metrics), metrics.study.name)),
        doubt(name, matrix),
        Prose(fit_text(matrix)) if fit_text(matrix) else None,
        *_kriging(name, matrix, arrays, on_top=on_top, deviations_on_top=on_top and has_deviations(metrics)),
        *_scattering(name, arrays, on_top=on_top),
        _structure(name, matrix),
        NamedValues(matrix_facts(matrix)),
        Prose(f"Noted on the way: {'; '.join(notes)}.", quiet=True) if notes else None,
        tables.levels(matrix),
        *distribution(matrix.distribution, said_beside(matrix.alone)),
    ]


def _structure(name: str, matrix: MatrixMetrics) -> Illustration | None:
    """Show the blocks and their ranks by level, and explain both."""
    if matrix.structure is None:
        return None
    n, blocks = matrix.structure.n, matrix.structure.blocks
    found = (block_structure(name, n, blocks), ranks_by_level(name, n, blocks, matrix.compress.levels))
    panels = tuple(panel for panel in found if panel is not None)
    if not panels:
        return None
    caption = (
        f"{panels[0].description} Rows and columns are in tree order, so that what is near in space is near in "
        "the matrix. Orange blocks couple near points and are kept whole; the others couple far boxes and are kept "
        "as products of as many columns as their rank says."
    )
    if len(panels) > 1:
        caption += (
            " The picture on the right shows the median rank of the far blocks of each level, with bars from the "
            "smallest to the largest. Boxes grow to the left. Where ranks do not grow with them, storage grows like N."
        )
    return Illustration(panels, caption, shape="pair" if len(panels) > 1 else "single")


def _kriging(
    name: str,
    matrix: MatrixMetrics,
    arrays: Mapping[str, np.ndarray],
    *,
    on_top: bool,
    deviations_on_top: bool,
) -> list[Block]:
    quantity = Quantity.of(matrix.result)
    blocks: list[Block] = []
    scatter = held_out_scatter(name, arrays, quantity)
    if on_top and scatter is not None:
        caption = f"The {quantity.name} that kriging predicts where the truth was held out, against it (dashed: equal)."
        blocks.append(Illustration((scatter,), caption, shape="single"))
    found = () if on_top else (kriging_map(name, arrays, quantity), scatter)
    panels = tuple(panel for panel in found if panel is not None)
    if panels:
        caption = f"The {quantity.name} that kriging predicts from the known points" + (
            ", and how it compares where the truth was held out (dashed: equal)." if len(panels) > 1 else "."
        )
        blocks.append(Illustration(panels, caption, shape="map" if len(panels) > 1 else "single"))
    deviations = None if deviations_on_top else deviation_map(name, arrays, quantity)
    if deviations is not None:
        caption = f"{deviations.description} The noise of single observations is not included."
        blocks.append(Illustration((deviations,), caption, shape="single"))
    checks = tuple(
        panel for panel in (coverage_plot(name, arrays), variogram_plot(name, arrays)) if panel is not None
    )
    if checks:
        blocks.append(Illustration(checks, " ".join(panel.description for panel in checks)))
    return blocks


def _scattering(name: str, arrays: Mapping[str, np.ndarray], *, on_top: bool) -> list[Block]:
    panels = (None if on_top else surface_field(name, arrays), far_field(name, arrays))
    return [
        Illustration((panel,), panel.description, shape="single") for panel in panels if panel is not None
    ]


def _growth(scaling: ScalingMetrics) -> list[Block | None]:
    panels = growth(scaling.rows)
    fitted = exponents(scaling.rows)
    text = f"Kernel: {kernel_text(scaling.kernel)}. Points: {scaling.points}. Tolerance: {setting(scaling.tolerance)}."
    beside = said_beside(scaling.alone)
    table = tables.scaling(scaling.rows, fitted, beside)
    caption = (
        f"Storage and time against N{', with fitted powers' if fitted else ''}; dashed, what the dense matrix "
        f"would take.{'' if fitted else ' The sizes are too few or too small to tell powers of N.'}"
        f"{f' {beside}' if beside else ''}"
    )
    picture = Illustration(tuple(panels), caption) if panels else None
    return [Heading("Growth with N"), Prose(text), picture, table]
