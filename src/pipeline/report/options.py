"""The table of options: how each network was trained."""

from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.report.content import Column, Table
from pipeline.report.formatting import DASH, count, is_number, setting, significant
from pipeline.report.runs import Runs, label_of, method_name

#: Options of a run that have a column of their own, or appear in the table of scores.
ELSEWHERE = ("optimizer", "smoothing", "augmentation", "batch_size", "train_samples")


def options(training: Runs) -> Table:
    """One row per run, folded: the training options of its networks, including those that trials chose."""
    rows = []
    for name, run in training.items():
        if run.options:
            optimizer = f"{method_name(run)}: {_values(_without_name(run.options['optimizer']))}"
            lists = (run.options.get(key) for key in ("smoothing", "augmentation"))
            named = (_named(each) for one in lists if isinstance(one, list) for each in one)
            smoothing = "; ".join(named) or DASH
            passes = _values({key: value for key, value in run.options.items() if key not in ELSEWHERE})
            rows.append((label_of(name, run), optimizer, smoothing, passes))
    titles = ("Run", Column("Optimizer"), Column("Smoothing and augmentation"), Column("Passes"))
    return Table("Options of every run", titles, tuple(rows), fold=True)


def _named(value: JsonValue) -> str:
    """Write `{name: mixup, alpha: 0.4}` as "mixup: alpha 0.4"."""
    if not isinstance(value, Mapping):
        return str(value)
    return ": ".join(filter(None, (_words(str(value.get("name", ""))), _values(_without_name(value)))))


def _without_name(value: JsonValue) -> dict[str, JsonValue]:
    return {key: option for key, option in value.items() if key != "name"} if isinstance(value, dict) else {}


def _values(values: Mapping[str, JsonValue]) -> str:
    """List options with their values; options that are switched off are left out."""
    return ", ".join(
        f"{_words(key)} {_value(value)}".rstrip()
        for key, value in values.items()
        if value is not None and value is not False
    )


def _value(value: JsonValue) -> str:
    if value is True:
        return ""
    if isinstance(value, Mapping):
        return _named(value)
    if isinstance(value, list):
        return " ".join(_value(each) for each in value)
    if isinstance(value, int):
        return count(value)
    if not is_number(value):
        return str(value)
    # A value that a search has drawn has all the digits of a double; values that somebody wrote have few.
    drawn = float(f"{value:.7g}") != value
    return significant(value, 3) if drawn and value < 0.9 else setting(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
