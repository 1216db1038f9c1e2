"""Put the report together: sections in order, then one template."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape  # what jinja2 escapes with, and brings along

from pipeline.report.answers import answers
from pipeline.report.first_screen import change, pictures
from pipeline.report.formatting import count, instant, plural
from pipeline.report.sections import SECTIONS


def render(metrics: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Write a study's report as one HTML page that needs nothing else.

    Args:
        metrics: As :class:`pipeline.report.metrics.Metrics` documents them; any part may be missing.
        arrays: ``MATRIX/longitude``, ``/latitude``, ``/values`` and ``/predicted`` of held-out points and
            ``MATRIX/grid_longitude`` (g,), ``/grid_latitude`` (h,), ``/grid`` (h, g) of the predicted map;
            ``/std`` and ``/grid_std`` beside ``/predicted`` and ``/grid``; ``/coverage_level`` and
            ``/coverage_found`` (levels,); ``/variogram_distance``, ``/variogram_values`` and
            ``/variogram_residuals`` (classes,). Any may be missing.

    Returns:
        The text of the page, well below 3 MB. It loads nothing from anywhere, and its script only adds to what is
        there without it.
    """
    metrics = _known(metrics)
    study = metrics.get("study") or {}
    sections = [section for make in SECTIONS if (section := make(metrics, arrays)) is not None]
    return (
        _environment()
        .get_template("page.html")
        .render(
            study=str(study.get("name") or ""),
            title=f"The {study['name']} study" if study.get("name") else "A study",
            description=str(study.get("description") or ""),
            setting=_setting(study, metrics.get("provenance") or {}),
            change=change(metrics),
            answers=answers(metrics),
            pictures=pictures(metrics, arrays),
            sections=sections,
        )
    )


def _known(value: Any) -> Any:
    """Leave out what is ``None``, at every depth: below, missing and unknown are the same.

    Blocks of a matrix, of which there may be 10^5, have only numbers and stay as they are.
    """
    if isinstance(value, Mapping):
        return {
            key: item if key == "blocks" else _known(item) for key, item in value.items() if item is not None
        }
    if isinstance(value, list | tuple):
        return [_known(item) for item in value if item is not None]
    return value


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
    environment.filters["share"] = _share
    return environment


def _typeset(text: str) -> Markup:
    """Escape a text; raise what follows ``N^`` and keep K-FAC on one line."""
    escaped = re.sub(r"N\^(−?[\d.]*\d)", r"N<sup>\1</sup>", str(escape(text)))
    return Markup(escaped.replace("K-FAC", '<span class="word">K-FAC</span>'))


def _share(fraction: float) -> str:
    """A fraction of a track's width, kept inside it."""
    return f"{100 * min(max(fraction, 0.0), 1.0):.2f}%"


def _setting(study: Mapping[str, Any], provenance: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What was studied, as named values below the title; what is unknown is left out."""
    data, model = study.get("dataset") or {}, study.get("model") or {}
    parts = {"training": "train_samples", "validation": "validation_samples", "test": "test_samples"}
    samples = ", ".join(
        f"{count(data[key])} {part}" for part, key in parts.items() if data.get(key) is not None
    )
    classes = (
        plural(len(data["classes"]), "class").replace("classs", "classes") if data.get("classes") else ""
    )
    n_parameters = model.get("n_parameters")
    items = {
        "Data": " · ".join(part for part in (str(data.get("name") or ""), samples, classes) if part),
        "Network": " · ".join(
            part
            for part in (
                str(model.get("name") or ""), f"{count(n_parameters)} parameters" if n_parameters else "",
            )
            if part
        ),
        "Seeds": _seeds(study.get("seeds") or []),
        "Run": " · ".join(
            instant(provenance[key]) if key == "date" else str(provenance[key])
            for key in ("date", "host", "cpu")
            if provenance.get(key)
        ),
    }  # fmt: skip
    return tuple((key, value) for key, value in items.items() if value)


def _seeds(seeds: Sequence[object]) -> str:
    names = ", ".join(str(seed) for seed in seeds)
    return f"{names} · ± is their standard deviation, on the whole page" if len(seeds) > 1 else names
