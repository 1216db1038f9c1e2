"""The first screen, beside the answers: what is missing or changed since the last run, and two pictures."""

from collections.abc import Sequence

from pipeline.report.changes import Change
from pipeline.report.content import Illustration, Notice
from pipeline.report.drawing import Arrays, Drawing
from pipeline.report.figures.kriging import deviation_map, kriging_map
from pipeline.report.figures.scattering import surface_field
from pipeline.report.figures.training import MOST_DRAWN, legend, progress
from pipeline.report.formatting import listing, plural, sentences, significant, told_apart
from pipeline.report.metrics import Metrics
from pipeline.report.quantity import Quantity
from pipeline.report.runs import alone, claimed, repeated

#: Up to this many changed figures and missing artefacts are named one by one.
MOST_NAMED = 3


def change(metrics: Metrics) -> Notice:
    """Tell in one line what is missing, or else what changed since past runs of the same study."""
    if metrics.missing:
        named = "; ".join(f"{one.artefact}: {one.reason}" for one in metrics.missing[:MOST_NAMED])
        more = f"; and {len(metrics.missing) - MOST_NAMED} more" if len(metrics.missing) > MOST_NAMED else ""
        title = f"This study is not finished: {plural(len(metrics.missing), 'result')} missing"
        return Notice(title, f"{named}{more}.", "#missing", "alarm")
    history = metrics.history
    other = _respecified(history.respecified) if history is not None else ""
    if history is None or not history.n_figures:
        none = "There is no past run of these specs on this kind of machine to compare with."
        return Notice("Other options" if other else "First run", f"{none}{other}")
    moved = history.changes
    against = (
        f"{plural(history.n_figures, 'figure')} were compared with up to {plural(history.n_runs, 'past run')}"
    )
    if not moved:
        title = "Nothing else changed" if other else "Nothing changed"
        return Notice(title, f"{against}: none moved beyond their noise.{other}", "#past")
    named = listing(_from_to(row) for row in moved[:MOST_NAMED])
    worse = sum(row.verdict == "worse" for row in moved)
    more = f", and {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else ""
    return Notice(
        f"{plural(len(moved), 'figure')} changed, {worse} for the worse",
        f"{against}. The largest changes: {named}{more}.{other}",
        "#past",
    )


def _respecified(names: Sequence[str]) -> str:
    """The sentence on artefacts whose options changed; empty where there are none."""
    if not names:
        return ""
    named = list(names[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        named.append(f"{len(names) - MOST_NAMED} more")
    verb = "has" if len(names) == 1 else "have"
    return f" {plural(len(names), 'result')} {verb} other options than in the run before: {listing(named)}."


def _from_to(row: Change) -> str:
    digits = told_apart(row.typical, row.value)
    now = f"from {significant(row.typical, digits)} to {significant(row.value, digits)}"
    return f"{row.artefact} {row.figure} {now} ({row.verdict})"


def pictures(metrics: Metrics, arrays: Arrays) -> list[Illustration]:
    """Two pictures: accuracy against time and steps, and the first map, or else the first surface of a wave.

    Without trainings, the map of the standard deviation stands beside that of the mean.
    """
    return [picture for picture in (_accuracy(metrics), *_maps(metrics, arrays)) if picture]


def _accuracy(metrics: Metrics) -> Illustration:
    shown = claimed(metrics.training, metrics.claims_of, MOST_DRAWN)
    caption = sentences(
        "Accuracy on the validation set.",
        "Lines are means over seeds, bands reach from the lowest to the highest." if repeated(shown) else "",
        ""
        if all(alone(run) for run in shown.values())
        else "Other jobs ran beside some runs, so times may be too long.",
    )
    return Illustration([progress(shown)], caption, legend(shown), layout="first")


def drawn_first(metrics: Metrics, arrays: Arrays) -> str | None:
    """The matrix whose map, or else whose surface, is drawn on the first screen."""
    for name, matrix in metrics.matrices.items():
        if kriging_map(name, arrays, Quantity.of(matrix.result)) is not None:
            return name
    return next((name for name in metrics.matrices if surface_field(name, arrays) is not None), None)


def has_deviations(metrics: Metrics) -> bool:
    """Tell whether the first screen has room for the map of the standard deviation."""
    return not metrics.training


def deviations_shown(drawing: Drawing | None, layout: str = "") -> Illustration:
    """The map of the standard deviation, with its caption."""
    caption = "The noise of single observations is not included."
    return Illustration([drawing], caption, layout=layout, described=True)


def _maps(metrics: Metrics, arrays: Arrays) -> list[Illustration]:
    """The map of a prediction, beside that of its standard deviation if there is room, or else a wave's surface."""
    name = drawn_first(metrics, arrays)
    if name is None:
        return []
    quantity = Quantity.of(metrics.matrices[name].result)
    mean = kriging_map(name, arrays, quantity, prefix="first-map")
    if mean is None:
        surface = surface_field(name, arrays, prefix="first-surface")
        return [Illustration([surface], layout="first", described=True)]
    found = [Illustration([mean], f"The {quantity.name} that kriging predicts ({name}).", layout="first")]
    deviations = deviation_map(name, arrays, quantity) if has_deviations(metrics) else None
    return [*found, deviations_shown(deviations, "first")]
