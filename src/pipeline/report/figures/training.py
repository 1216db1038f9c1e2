"""Curves of training, and where each seed ended."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.artifacts.results import Number
from pipeline.artifacts.results.network import EpochRow
from pipeline.report.drawing import PALETTE, Data, Drawing, Stroke, canvas, finish, strokes
from pipeline.report.figures.axes import logarithmic, percent, short_number
from pipeline.report.formatting import decimal, is_number, shorten, with_percent
from pipeline.report.formatting import percent as as_percent
from pipeline.report.runs import OverSeeds, Runs, accuracy_on_test, histories_of, label_of, loss_on_test
from pipeline.report.spread import Spread

EpochFigure = Callable[[EpochRow], Number]

#: The curves of more runs than this cannot be told apart: then only the runs of the claims are drawn.
MOST_DRAWN = 8
#: Runs shorter than this are nothing but the first climb: their curves are shown whole.
EPOCHS_TO_ZOOM = 10


@dataclass(frozen=True)
class Curve:
    """A quantity by epoch: its name, its value in a row of a history, its axis's label, and if it is an accuracy."""

    name: str
    of: EpochFigure
    label: str = ""
    accuracy: bool = False


ACCURACY = Curve("validation accuracy", lambda row: row.validation_accuracy, accuracy=True)
TRAIN_LOSS = Curve("train loss", lambda row: row.train_loss)
VALIDATION_LOSS = Curve("validation loss", lambda row: row.validation_loss)
EPOCH = Curve("epoch", lambda row: row.epoch, "epoch")
STEPS = Curve("steps", lambda row: row.steps, "optimizer steps")
SECONDS = Curve("seconds", lambda row: row.seconds, "seconds of training")
_COLUMNS = ("run", "seed", "epoch", "steps", "seconds", "quantity", "value")


def legend(training: Runs) -> list[tuple[Stroke, str]]:
    """The key to the curves of these runs."""
    return [(look, label_of(name, training[name])) for name, look in strokes(training).items()]


def learning_curves(training: Runs) -> list[Drawing]:
    """Validation accuracy against epochs and steps; training and validation loss against epochs."""
    panels = (
        (ACCURACY, EPOCH, "Validation accuracy, by epoch"),
        (ACCURACY, STEPS, "Validation accuracy, by step"),
        (TRAIN_LOSS, EPOCH, "Training loss, by epoch"),
        (VALIDATION_LOSS, EPOCH, "Validation loss, by epoch"),
    )
    return [_curves(training, *panel) for panel in panels if _known(training, panel[0])]


def _known(training: Runs, curve: Curve) -> bool:
    return any(is_number(curve.of(row)) for run in training.values() for h in histories_of(run) for row in h)


def progress(training: Runs) -> Drawing | None:
    """Validation accuracy against time and against steps, in one drawing: the study at a glance."""
    if not _known(training, ACCURACY):
        return None
    with canvas(5.0, 2.4) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        data = Data(_COLUMNS)
        ends = _draw(left, training, ACCURACY, SECONDS, data)
        _draw(right, training, ACCURACY, STEPS, data)
        left.set(title="Validation accuracy, by time", xlabel=SECONDS.label)
        right.set(title="By optimizer step", xlabel=STEPS.label)
        percent(left, "y")
        _zoom(left, training, ACCURACY)
        words = f"Validation accuracy against time and steps: {'; '.join(ends)}."
        return finish(figure, "progress", words, data)


def _curves(training: Runs, curve: Curve, against: Curve, title: str) -> Drawing:
    with canvas(4.7, 3.1) as figure:
        # Fixed margins: the panels of one figure line up.
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.125, 0.155, 0.86, 0.745))
        data = Data(_COLUMNS)
        ends = _draw(axes, training, curve, against, data)
        axes.set(title=title, xlabel=against.label)
        if curve.accuracy:
            percent(axes, "y")
            _zoom(axes, training, curve)
        elif axes.dataLim.ymin > 0:
            # A first epoch that nearly diverges would flatten all others on a linear axis.
            logarithmic(axes, "y")
        name = f"curve-{curve.name.replace(' ', '-')}-{against.name}"
        return finish(figure, name, f"{title}: {'; '.join(ends)}.", data)


def _draw(axes: Axes, training: Runs, curve: Curve, against: Curve, data: Data) -> list[str]:
    """Draw means and bands of all runs, keep every seed's points, and return where the runs end, in words."""
    reach: list[float] = []
    ends: list[str] = []
    for (name, run), look in zip(training.items(), strokes(training).values(), strict=True):
        x, low, mean, high = _band(histories_of(run), against.of, curve.of)
        if not len(x):
            continue
        label = label_of(name, run)
        axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
        axes.plot(x, mean, color=look.color, linestyle=(0, look.dashes or None))
        axes.plot(x[-1:], mean[-1:], color=look.color, marker=look.marker, markersize=4.5, clip_on=False)
        reach.append(float(x[-1]))
        end = as_percent(mean[-1]) if curve.accuracy else decimal(mean[-1], 3)
        ends.append(f"{label} ends at {end}")
        for seed, found in run.seeds.items():
            for row in found.history:
                at, value = against.of(row), curve.of(row)
                if is_number(at) and is_number(value):
                    epoch = row.epoch, row.steps, row.seconds
                    data.add(axes, at, value, label, seed, *epoch, curve.name, value)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if against is not EPOCH and reach and max(reach) > 4 * min(reach) > 0:
        logarithmic(axes, "x")
    return ends


def _zoom(axes: Axes, training: Runs, curve: Curve) -> None:
    """Cut off the climb of the first epochs, where it would squeeze the differences that matter."""
    histories = [h for run in training.values() for h in histories_of(run)]
    known = np.array([value for h in histories for row in h if is_number(value := curve.of(row))])
    ends = np.array([value for h in histories if is_number(value := curve.of(h[-1]))])
    if not len(ends) or max(map(len, histories)) < EPOCHS_TO_ZOOM:
        return
    bottom = max(float(known.min()), float(ends.min()) - 0.6 * (1.0 - float(ends.min())) - 0.05)
    top = float(known.max())
    bottom = bottom if bottom < top else top - 0.05
    axes.set_ylim(bottom - 0.02 * (top - bottom), top + 0.06 * (top - bottom))


def _band(
    histories: list[list[EpochRow]], against: EpochFigure, of: EpochFigure
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, lowest, mean and highest of the seeds, over the epochs that every seed has."""
    length = min((len(history) for history in histories), default=0)
    rows = []
    for place in range(length):
        spread = Spread.of(of(history[place]) for history in histories)
        at = against(histories[0][place])
        if spread.mean is not None and is_number(at):
            rows.append((at, min(spread.values), spread.mean, max(spread.values)))
    x, low, mean, high = np.array(rows, dtype=float).reshape(-1, 4).T
    return x, low, mean, high


def final_scores(training: Runs, with_curves: Runs) -> list[Drawing | None]:
    """Every seed's test accuracy and test loss as a dot, the mean as a bar, in the colors of the runs' curves."""
    looks = strokes(training, with_curves)
    return [
        _dots(training, looks, accuracy_on_test, "Test accuracy, seed by seed", "accuracy"),
        _dots(training, looks, loss_on_test, "Test loss, seed by seed", "loss"),
    ]


def _dots(
    training: Runs, looks: Mapping[str, Stroke], quantity: OverSeeds, title: str, unit: str
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
            look = looks[name]
            axes.plot([spread.mean] * 2, [index - 0.3, index + 0.3], color=look.color, linewidth=2.2)
            axes.plot(
                spread.values, [index] * spread.n, linestyle="none", marker=look.marker, markersize=5.5,
                color=look.color, alpha=0.75, markeredgecolor=PALETTE["paper"], markeredgewidth=0.6,
            )  # fmt: skip
            for seed, value in spread.by_seed.items():
                data.add(axes, value, index, label_of(name, training[name]), seed, value)
            mean = with_percent(spread.mean, 2) if unit == "accuracy" else decimal(spread.mean, 3)
            words.append(f"{label_of(name, training[name])} {mean}")
        axes.set_title(title)
        axes.set_yticks(range(len(spreads)), [shorten(label_of(*run), 34) for run in training.items()])
        axes.set_ylim(len(spreads) - 0.45, -0.55)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=PALETTE["ink"])
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        if unit == "accuracy":
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
            left, right = axes.get_xlim()
            axes.set_xlim(left, min(right, 100 + 0.03 * (100 - left)))
        else:
            axes.xaxis.set_major_formatter(short_number)
        return finish(figure, f"final-{unit}", f"{title}, means: {', '.join(words)}.", data)
