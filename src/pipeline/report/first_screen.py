"""The first screen, beside the answers: what is missing or changed since the last run, and two pictures."""

from collections.abc import Sequence

from pipeline.report.content import Illustration, Notice
from pipeline.report.drawing import Arrays, Drawing
from pipeline.report.figures.kriging import deviation_map, has_map, kriging_map
from pipeline.report.figures.scattering import has_surface, surface_field
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
    figures, runs = plural(history.n_figures, "figure"), plural(history.n_runs, "past run")
    against = f"{figures} were compared with up to {runs}"
    if not moved:
        title = "Nothing else changed" if other else "Nothing changed"
        return Notice(title, f"{against}: none moved beyond their noise.{other}", "#past")
    largest = []
    for row in moved[:MOST_NAMED]:
        digits = told_apart(row.typical, row.value)
        now = f"from {significant(row.typical, digits)} to {significant(row.value, digits)}"
        largest.append(f"{row.artefact} {row.figure} {now} ({row.verdict})")
    worse = sum(row.verdict == "worse" for row in moved)
    more = f", and {len(moved) - MOST_NAMED} more" if len(moved) > MOST_NAMED else ""
    title = f"{plural(len(moved), 'figure')} changed, {worse} for the worse"
    return Notice(title, f"{against}. The largest changes: {listing(largest)}{more}.{other}", "#past")


def _respecified(names: Sequence[str]) -> str:
    """The sentence on artefacts whose options changed; empty where there are none."""
    if not names:
        return ""
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    named = [*names[:MOST_NAMED], *more]
    verb = "has" if len(names) == 1 else "have"
    return f" {plural(len(names), 'result')} {verb} other options than in the run before: {listing(named)}."


def pictures(metrics: Metrics, arrays: Arrays) -> list[Illustration]:
    """Two pictures: accuracy against time and steps, and the first map, or else the first surface of a wave.

    Without trainings, the map of the standard deviation stands beside that of the mean.
    """
    return [picture for picture in (_accuracy(metrics), *_maps(metrics, arrays)) if picture]


def _accuracy(metrics: Metrics) -> Illustration:
    shown = claimed(metrics.training, metrics.claims_of, MOST_DRAWN)
    several, undisturbed = repeated(shown), all(alone(run) for run in shown.values())
    caption = sentences(
        "Accuracy on the validation set.",
        "Lines are means over seeds, bands reach from the lowest to the highest." if several else "",
        "" if undisturbed else "Other jobs ran beside some runs, so times may be too long.",
    )
    return Illustration([progress(shown)], caption, legend(shown), layout="first")


def drawn_first(metrics: Metrics, arrays: Arrays) -> str | None:
    """The matrix whose map, or else whose surface, is drawn on the first screen."""
    maps = (name for name in metrics.matrices if has_map(name, arrays))
    return next(maps, None) or next((name for name in metrics.matrices if has_surface(name, arrays)), None)


def deviations_shown(drawing: Drawing | None, layout: str = "") -> Illustration:
    """The map of the standard deviation, with its caption."""
    caption = "The noise of single observations is not included."
    return Illustration([drawing], caption, layout=layout, described=True)


def _maps(metrics: Metrics, arrays: Arrays) -> list[Illustration]:
    """The map of a prediction, without trainings beside that of its standard deviation, or else a wave's surface."""
    name = drawn_first(metrics, arrays)
    if name is None:
        return []
    quantity = Quantity.of(metrics.matrices[name].result)
    mean = kriging_map(name, arrays, quantity, prefix="first-map")
    if mean is None:
        surface = surface_field(name, arrays, prefix="first-surface")
        return [Illustration([surface], layout="first", described=True)]
    found = [Illustration([mean], f"The {quantity.name} that kriging predicts ({name}).", layout="first")]
    deviations = None if metrics.training else deviation_map(name, arrays, quantity)
    return [*found, deviations_shown(deviations, "first")]
