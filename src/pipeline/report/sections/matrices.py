"""The section on hierarchical matrices."""

from pipeline.report import tables
from pipeline.report.answers.numbers import fit_text, told
from pipeline.report.content import Block, Heading, Illustration, NamedValues, PageSection, Prose
from pipeline.report.distribution import distribution
from pipeline.report.drawing import Arrays
from pipeline.report.facts import doubt, kernel_text, matrix_facts
from pipeline.report.figures import kriging
from pipeline.report.figures.growth import exponents, growth
from pipeline.report.figures.scattering import far_field, surface_field
from pipeline.report.figures.structure import block_structure, ranks_by_level
from pipeline.report.first_screen import deviations_shown, drawn_first
from pipeline.report.formatting import listing, sentences, setting
from pipeline.report.metrics import MatrixMetrics, Metrics, ScalingMetrics
from pipeline.report.quantity import Quantity
from pipeline.report.runs import said_beside


def matrices_section(metrics: Metrics, arrays: Arrays) -> PageSection | None:
    """Show the result of each matrix, its structure and its costs; then growth with N."""
    matrices, scaling = metrics.matrices, metrics.scaling
    if not matrices and scaling is None:
        return None
    blocks: list[Block | None] = []
    first = drawn_first(metrics, arrays)
    for name, matrix in matrices.items():
        # Pictures of the first screen are not shown twice.
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
    return PageSection("numbers", "Fewer numbers", lead, blocks)


def _matrix(
    name: str, matrix: MatrixMetrics, arrays: Arrays, metrics: Metrics, *, on_top: bool
) -> list[Block | None]:
    notes = [*matrix.compress.notes, *(matrix.solve.notes if matrix.solve is not None else [])]
    fit = fit_text(matrix)
    return [
        Heading(name),
        Prose(told(name, matrix, len(metrics.study.classes), metrics.study.name).sentence),
        doubt(name, matrix),
        Prose(fit) if fit else None,
        *_kriging(name, matrix, arrays, on_top=on_top, deviations_on_top=on_top and not metrics.training),
        Illustration([None if on_top else surface_field(name, arrays)], described=True),
        Illustration([far_field(name, arrays)], described=True),
        _structure(name, matrix),
        NamedValues(matrix_facts(matrix)),
        Prose(f"Notes: {'; '.join(notes)}.", quiet=True) if notes else None,
        tables.levels(matrix),
        *distribution(matrix.distribution, said_beside(matrix.alone)),
    ]


def _structure(name: str, matrix: MatrixMetrics) -> Illustration | None:
    """Show the blocks and their ranks by level, and explain both."""
    if matrix.structure is None:
        return None
    n, blocks = matrix.structure.n, matrix.structure.blocks
    structure = block_structure(name, n, blocks)
    if structure is None:
        return None
    ranks = ranks_by_level(name, n, blocks, matrix.compress.levels)
    caption = (
        f"{structure.description} Rows and columns are in tree order, so that what is near in space is near in "
        "the matrix. Orange blocks couple near points and are kept whole; the others couple far boxes and are kept "
        "as products of as many columns as their rank says."
    )
    if ranks is not None:
        caption += (
            " The picture on the right shows the median rank of the far blocks of each level, with bars from the "
            "smallest to the largest. Boxes grow to the left. Where ranks do not grow with them, storage grows like N."
        )
    return Illustration((structure, ranks), caption)


def _kriging(
    name: str, matrix: MatrixMetrics, arrays: Arrays, *, on_top: bool, deviations_on_top: bool
) -> list[Block]:
    quantity = Quantity.of(matrix.result)
    scatter = kriging.held_out_scatter(name, arrays, quantity)
    predicts, equal = f"The {quantity.name} that kriging predicts", "where the truth was held out"
    if on_top:
        first = Illustration([scatter], f"{predicts} {equal}, against it (dashed: equal).")
    else:
        field = kriging.kriging_map(name, arrays, quantity)
        both = field is not None and scatter is not None
        compared = f", and how it compares {equal} (dashed: equal)." if both else "."
        layout = "map" if both else ""
        first = Illustration((field, scatter), f"{predicts} from the known points{compared}", layout=layout)
    deviations = None if deviations_on_top else kriging.deviation_map(name, arrays, quantity)
    checks = kriging.coverage_plot(name, arrays), kriging.variogram_plot(name, arrays)
    return [first, deviations_shown(deviations), Illustration(checks, layout="pair", described=True)]


def _growth(scaling: ScalingMetrics) -> list[Block]:
    fitted, beside = exponents(scaling.rows), said_beside(scaling.alone)
    text = f"Kernel: {kernel_text(scaling.kernel)}. Points: {scaling.points}. Tolerance: {setting(scaling.tolerance)}."
    powers = ", with fitted powers" if fitted else ""
    caption = sentences(
        f"Storage and time against N{powers}; dashed, what the dense matrix would take.",
        "" if fitted else "The sizes are too few or too small to tell powers of N.",
        beside,
    )
    return [
        Heading("Growth with N"),
        Prose(text),
        Illustration(growth(scaling.rows), caption, layout="pair"),
        tables.scaling(scaling.rows, fitted, beside),
    ]
