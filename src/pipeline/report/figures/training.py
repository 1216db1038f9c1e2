"""Curves of training, and where each seed ended."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.drawing import PALETTE, Data, Drawing, canvas, finish, stroke
from pipeline.report.figures.axes import logarithmic, percent
from pipeline.report.formatting import decimal, is_number, shorten, with_percent
from pipeline.report.formatting import percent as as_percent
from pipeline.report.runs import accuracy_on_test, histories_of, label_of, loss_on_test
from pipeline.report.spread import Spread

Training = Mapping[str, Mapping[str, Any]]

#: More runs than this make curves that nobody can tell apart: then those of the claims stand for all.
MOST_DRAWN = 8
#: Shorter runs than this are nothing but climb: their curves are shown whole.
EPOCHS_TO_ZOOM = 10


def learning_curves(training: Training) -> list[Drawing]:
    """Validation accuracy against epochs and steps; training and validation loss against epochs."""
    panels = (
        ("validation_accuracy", "epoch", "Validation accuracy, by epoch", "epoch"),
        ("validation_accuracy", "steps", "Validation accuracy, by step", "optimizer steps"),
        ("train_loss", "epoch", "Training loss, by epoch", "epoch"),
        ("validation_loss", "epoch", "Validation loss, by epoch", "epoch"),
    )
    return [
        _curves(training, key, against, title, label)
        for key, against, title, label in panels
        if any(is_number(row.get(key)) for run in training.values() for h in histories_of(run) for row in h)
    ]


def progress(training: Training) -> Drawing | None:
    """Validation accuracy against the clock and against steps, in one drawing: the study in one look."""
    key = "validation_accuracy"
    if not any(is_number(row.get(key)) for run in training.values() for h in histories_of(run) for row in h):
        return None
    with canvas(6.2, 3.1) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        data = _data()
        ends = _draw(left, training, key, "seconds", data)
        _draw(right, training, key, "steps", data)
        left.set_title("Validation accuracy, by time")
        left.set_xlabel("seconds of training")
        right.set_title("By optimizer step")
        right.set_xlabel("optimizer steps")
        percent(left, "y")
        _zoom(left, training, key)
        words = f"Validation accuracy against time and steps: {'; '.join(ends)}."
        return finish(figure, name="progress", description=words, data=data)


def _curves(training: Training, key: str, against: str, title: str, label: str) -> Drawing:
    with canvas(4.7, 3.1) as figure:
        # Fixed margins: the panels of one figure line up.
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.125, 0.155, 0.86, 0.745))
        data = _data()
        ends = _draw(axes, training, key, against, data)
        axes.set_title(title)
        axes.set_xlabel(label)
        if "accuracy" in key:
            percent(axes, "y")
            _zoom(axes, training, key)
        elif axes.dataLim.ymin > 0:
            # A first epoch that nearly diverges would flatten all others on a linear axis.
            logarithmic(axes, "y")
        return finish(
            figure,
            name=f"curve-{key}-{against}".replace("_", "-"),
            description=f"{title}: {'; '.join(ends)}.",
            data=data,
        )


def _data() -> Data:
    return Data(("run", "seed", "epoch", "steps", "seconds", "quantity", "value"))


def _draw(axes: Axes, training: Training, key: str, against: str, data: Data) -> list[str]:
    """Draw means and bands of all runs, keep every seed's points, and tell where the runs end."""
    reach: list[float] = []
    ends: list[str] = []
    for index, (name, run) in enumerate(training.items()):
        x, low, mean, high = _band(histories_of(run), against, key)
        if not len(x):
            continue
        look = stroke(index)
        axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
        axes.plot(x, mean, color=look.color, linestyle=look.dash)
        axes.plot(x[-1:], mean[-1:], color=look.color, marker=look.marker, markersize=4.5, clip_on=False)
        reach.append(float(x[-1]))
        end = as_percent(mean[-1]) if "accuracy" in key else decimal(mean[-1], 3)
        ends.append(f"{label_of(name, run)} ends at {end}")
        _keep(data, axes, name, run, key, against)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if against != "epoch" and reach and max(reach) > 4 * min(reach) > 0:
        logarithmic(axes, "x")
    return ends


def _keep(data: Data, axes: Axes, name: str, run: Mapping[str, Any], key: str, against: str) -> None:
    """Keep the points of every seed of a run."""
    for seed, found in (run.get("seeds") or {}).items():
        for row in (found or {}).get("history") or []:
            x, y = row.get(against), row.get(key)
            if is_number(x) and is_number(y):
                where = (row.get(column) for column in ("epoch", "steps", "seconds"))
                data.add(axes, x, y, label_of(name, run), seed, *where, key.replace("_", " "), y)


def _zoom(axes: Axes, training: Training, key: str) -> None:
    """Leave the first epochs' climb outside, where it would squeeze the differences that matter."""
    histories = [h for run in training.values() for h in histories_of(run)]
    known = np.array([row[key] for h in histories for row in h if is_number(row.get(key))])
    ends = np.array([h[-1][key] for h in histories if is_number(h[-1].get(key))])
    if not len(ends) or max(map(len, histories)) < EPOCHS_TO_ZOOM:
        return
    bottom = max(float(known.min()), float(ends.min()) - 0.6 * (1.0 - float(ends.min())) - 0.05)
    top = float(known.max())
    axes.set_ylim(bottom - 0.02 * (top - bottom), top + 0.06 * (top - bottom) + 1e-3)


def _band(
    histories: list[list[Mapping[str, Any]]], against: str, key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, lowest, mean and highest of the seeds, over the epochs that every seed has."""
    length = min((len(history) for history in histories), default=0)
    rows = []
    for place in range(length):
        spread = Spread.of(history[place].get(key) for history in histories)
        x = histories[0][place].get(against)
        if spread.mean is not None and is_number(x):
            rows.append((x, min(spread.values), spread.mean, max(spread.values)))
    x, low, mean, high = np.array(rows, dtype=float).reshape(-1, 4).T
    return x, low, mean, high


def final_scores(training: Training) -> list[Drawing]:
    """Every seed's test accuracy and test loss as a dot, the mean as a bar."""
    with_accuracy = _dots(training, accuracy_on_test, "Test accuracy, seed by seed", "accuracy")
    with_loss = _dots(training, loss_on_test, "Test loss, seed by seed", "loss")
    return [drawing for drawing in (with_accuracy, with_loss) if drawing is not None]


def _dots(
    training: Training, quantity: Callable[[Mapping[str, Any]], Spread], title: str, unit: str
) -> Drawing | None:
    spreads = {name: quantity(run) for name, run in training.items()}
    if not any(spread.n for spread in spreads.values()):
        return None
    with canvas(4.7, 0.75 + 0.36 * len(spreads)) as figure:
        axes = figure.add_subplot()
        words = []
        data = Data(("run", "seed", title.partition(",")[0].lower()))
        for index, (name, spread) in enumerate(spreads.items()):
            if spread.mean is None:
                continue
            look = stroke(index)
            axes.plot([spread.mean] * 2, [index - 0.3, index + 0.3], color=look.color, linewidth=2.2)
            axes.plot(
                spread.values, [index] * spread.n, linestyle="none", marker=look.marker, markersize=5.5,
                color=look.color, alpha=0.75, markeredgecolor=PALETTE["paper"], markeredgewidth=0.6,
            )  # fmt: skip
            for seed, value in zip(training[name].get("seeds") or {}, spread.values, strict=False):
                data.add(axes, value, index, label_of(name, training[name]), seed, value)
            mean = with_percent(spread.mean, 2) if unit == "accuracy" else decimal(spread.mean, 3)
            words.append(f"{label_of(name, training[name])} {mean}")
        labels = [shorten(label_of(name, run), 34) for name, run in training.items()]
        _name_rows(axes, labels)
        axes.set_title(title)
        if unit == "accuracy":
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        return finish(
            figure, name=f"final-{unit}", description=f"{title}, means: {', '.join(words)}.", data=data
        )


def _name_rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
