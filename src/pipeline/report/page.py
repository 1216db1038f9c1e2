"""Put the report together: sections in order, then one template."""

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape  # jinja2 depends on it and escapes with it

from pipeline.report.answers import answers
from pipeline.report.drawing import Arrays
from pipeline.report.first_screen import change, pictures
from pipeline.report.formatting import count, instant, plural
from pipeline.report.metrics import Dataset, Metrics
from pipeline.report.sections import SECTIONS

#: Data sets in a user's own files, whose name alone tells little.
OWN = ("folder", "arrays", "idx")
#: Up to this many classes are named beside their number.
MOST_NAMED = 12


def render(metrics: Metrics, arrays: Arrays) -> str:
    """Write a study's report as one HTML page that needs nothing else.

    Args:
        metrics: What the study found.
        arrays: ``MATRIX/longitude``, ``/latitude``, ``/values`` and ``/predicted`` of held-out points and
            ``MATRIX/grid_longitude`` (g,), ``/grid_latitude`` (h,), ``/grid`` (h, g) of the predicted map;
            ``/std`` and ``/grid_std`` beside ``/predicted`` and ``/grid``; ``/coverage_level`` and
            ``/coverage_found`` (levels,); ``/variogram_distance``, ``/variogram_values`` and
            ``/variogram_residuals`` (classes,). Any may be missing.

    Returns:
        The text of the page, well below 3 MB. It loads nothing, and all its content is readable without its script.
    """
    sections = [section for make in SECTIONS if (section := make(metrics, arrays)) is not None]
    template = _environment().get_template("page.html")
    return template.render(
        study=metrics.study.name,
        title=f"The {metrics.study.name} study",
        description=metrics.study.description,
        setting=_setting(metrics),
        change=change(metrics),
        answers=answers(metrics),
        pictures=pictures(metrics, arrays),
        sections=sections,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = _typeset
    # A fraction of a track's width, kept inside it.
    environment.filters["share"] = lambda fraction: f"{100 * min(max(fraction, 0.0), 1.0):.2f}%"
    return environment


def _typeset(text: str) -> Markup:
    """Escape a text; write what follows ``N^`` as a superscript and keep K-FAC on one line."""
    escaped = re.sub(r"N\^(−?[\d.]*\d)", r"N<sup>\1</sup>", str(escape(text)))
    return Markup(escaped.replace("K-FAC", '<span class="word">K-FAC</span>'))


def _setting(metrics: Metrics) -> tuple[tuple[str, str], ...]:
    """The subject of the study, as named values; what a study does not have is left out."""
    study, model, made = metrics.study, metrics.study.model, metrics.provenance
    items = {
        "Data": _data(study.dataset) if study.dataset else "",
        "Network": f"{model.name} · {count(model.n_parameters)} parameters" if model else "",
        "Seeds": _seeds(metrics),
        "Run": " · ".join(filter(None, [made.date and instant(made.date), made.host, made.cpu])),
    }
    return tuple((key, value) for key, value in items.items() if value)


def _data(data: Dataset) -> str:
    parts = {"training": data.train_samples, "validation": data.validation_samples, "test": data.test_samples}
    samples = ", ".join(f"{count(n)} {part}" for part, n in parts.items())
    names = f" ({', '.join(data.classes)})" if len(data.classes) <= MOST_NAMED else ""
    name = data.source if data.name in OWN else data.name
    return f"{name} · {samples} · {plural(len(data.classes), 'class', 'classes')}{names}"


def _seeds(metrics: Metrics) -> str:
    """The number of seeds that all runs have, or that each run has where they differ."""
    seeds, runs = metrics.study.seeds, metrics.training.values()
    numbers = sorted({len(run.seeds) for run in runs})
    if len(numbers) > 1:
        over = "± is the standard deviation over the seeds of a run, on the whole page"
        return f"{numbers[0]} to {numbers[-1]} a run, see its final scores · {over}"
    names = ", ".join(str(seed) for seed in seeds)
    if numbers and numbers[0] < len(seeds):
        names = f"{numbers[0]} a run, of {names}"
    several = len(seeds) > 1 if not numbers else numbers[0] > 1
    return f"{names} · ± is their standard deviation, on the whole page" if several else names
