"""The sections of the page: which figures and tables, in which order, with which sentence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.report import tables
from pipeline.report.answers.bits import bound_text, whole_network_speedups
from pipeline.report.answers.numbers import fit_text, result_text
from pipeline.report.claims import MARGIN, judge_claims
from pipeline.report.content import Block, Facts, Heading, Illustration, Key, Prose, Section, Table, Verdicts
from pipeline.report.drawing import stroke
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
from pipeline.report.figures.roofline import rooflines
from pipeline.report.figures.structure import block_structure
from pipeline.report.figures.training import final_scores, learning_curves
from pipeline.report.formatting import (
    DASH,
    count,
    is_number,
    listing,
    n_bytes,
    percent,
    plural,
    seconds,
    setting,
    with_percent,
)
from pipeline.report.layer_tables import (
    candidates,
    device_times,
    error_growth,
    layer_bars,
    layer_times,
    layer_work,
    rounding,
)
from pipeline.report.prediction_tables import changed_predictions, confusions, plans
from pipeline.report.quantity import Quantity
from pipeline.report.runs import (
    accuracy_on_test,
    accuracy_on_validation,
    accuracy_text,
    comparable,
    label_of,
    loss_on_test,
    noise_rise,
    preconditioner_share,
    repeated,
    run_at_chance,
    seeds_of,
    target_loss,
)

#: More runs than this make curves that nobody can tell apart: then those of the claims stand for all.
MOST_DRAWN = 8


def training_section(
    training: Mapping[str, Any], roles: Mapping[str, Any] | None, n_classes: int = 0
) -> Section | None:
    """Claims, scores, curves, and what the preconditioner had to do."""
    if not training:
        return None
    blocks: list[Block | None] = []
    claims = judge_claims(training, roles)
    if claims:
        note = (
            "Verdicts: a difference counts if its 90 % interval (Welch's t over the seeds) lies wholly on one side. "
            f"A claim of several differences holds if all do. “At the level of” allows {MARGIN:g} percentage points. "
            "One seed leaves a claim undecided."
        )
        blocks.append(Verdicts(tuple((c.statement, c.verdict, c.evidence) for c in claims), note))
    crossed = (
        (accuracy_on_test, "Test accuracy by method and batch (%)", 2),
        (loss_on_test, "Test loss by method and batch", 3),
        (noise_rise, "Rise of the training loss under weight noise, by method and batch", 3),
    )
    blocks += [tables.methods_by_batch(training, of, caption, usual) for of, caption, usual in crossed]
    blocks.append(tables.final_accuracy(training, n_classes))
    large = training.get(str((roles or {}).get("large_batch")))
    blocks.append(tables.minima(training, target_loss(large) if large else None))
    shown, which_shown = training, "The same runs"
    if len(training) > MOST_DRAWN and roles:
        shown = {name: run for name, run in training.items() if name in roles.values()}
        which_shown = "The runs that the claims compare,"
    legend = tuple(
        Key(stroke(place).variable, stroke(place).marker, label_of(name, run))
        for place, (name, run) in enumerate(shown.items())
    )
    scores = final_scores(training)
    if scores:
        caption = (
            "Every dot is a seed, every bar a run's mean." if repeated(training) else "A dot for every run."
        )
        blocks.append(Illustration(tuple(scores), caption))
    panels = learning_curves(shown)
    if panels:
        blocks.append(
            Illustration(
                tuple(panels),
                f"{which_shown} by epoch and by optimizer step{_bands(shown)}. Losses are true ones, without "
                "smoothing.",
                legend,
            )
        )
    blocks.append(tables.factors(shown))
    blocks.append(_preconditioner(training))
    lead = f"{plural(len(training), 'run')}; {_best(training, n_classes)}."
    return Section("steps", "Fewer steps", lead, tuple(block for block in blocks if block is not None))


def _bands(training: Mapping[str, Any]) -> str:
    if not repeated(training):
        return ""
    return ": lines are means over seeds, bands go from the lowest to the highest seed"


def _best(training: Mapping[str, Any], n_classes: int) -> str:
    """Which run is best, on the test samples if they were looked at."""
    if not any(accuracy_on_test(run).n for run in training.values()):
        found = {name: accuracy_on_validation(run).mean or 0.0 for name, run in comparable(training).items()}
        name = max(found, key=lambda key: found[key])
        which = "the best on the validation set is " if len(training) > 1 else ""
        where = "" if which else " on the validation set"
        return (
            f"{which}{label_of(name, training[name])} with {with_percent(found[name], 2)}{where}; the test set was "
            "not looked at"
        )
    best = max(comparable(training).items(), key=lambda item: accuracy_on_test(item[1]).mean or 0.0)
    with_accuracy = f"{label_of(*best)} with {accuracy_text(best[1])}"
    if len(training) == 1:
        chance = run_at_chance(best[1], n_classes)
        return f"{with_accuracy} on the test set{', no better than chance' if chance else ''}"
    which = "the best on the test set is"
    if run_at_chance(best[1], n_classes):
        which = f"none gets above chance ({percent(1 / n_classes, 0)}), not even"
    return f"{which} {with_accuracy}"


def _preconditioner(training: Mapping[str, Any]) -> Prose | None:
    """Counters of K-FAC, summed over seeds; what is not a number is left to metrics.json."""
    words = []
    for name, run in training.items():
        totals: dict[str, float] = {}
        for seed in seeds_of(run):
            for key, value in (seed.get("kfac") or {}).items():
                if is_number(value) and str(key).startswith("n_"):
                    totals[key] = totals.get(key, 0) + value
        if totals:
            counters = listing(f"{count(n)} {str(key)[2:].replace('_', ' ')}" for key, n in totals.items())
            share = preconditioner_share(run).mean
            spent = f", {percent(share, 0)} of the time in steps" if share is not None else ""
            words.append(f"{label_of(name, run)}: {counters}{spent}")
    over = ", over all seeds" if repeated(training) else ""
    return Prose(f"Preconditioner{over}. {'; '.join(words)}.", quiet=True) if words else None


def precision_section(
    networks: Mapping[str, Any], training: Mapping[str, Any], classes: Sequence[str] = ()
) -> Section | None:
    """Per converted network: accuracy, bars with reasons, roofline, tables."""
    if not networks:
        return None
    blocks: list[Block | None] = []
    for name, network in networks.items():
        if len(networks) > 1:
            blocks.append(Heading(label_of(name, training.get(name) or {})))
        text = _network_text(network)
        blocks.append(Prose(text) if text else None)
        blocks.append(plans(network, whole_network_speedups(network)))
        blocks.append(layer_bars(network))
        panels = rooflines(name, network.get("timings") or [], network.get("roofs"))
        if panels:
            isa = (network.get("roofs") or {}).get("instruction_set")
            caption = (
                "Roofline of one core"
                + (f" ({isa})" if isa else "")
                + ": each layer moves from FP32 (hollow) to FP16 "
                "(filled); right means fewer bytes for the same work, up means faster. Numbers as in the table above."
            )
            blocks.append(Illustration(tuple(panels), caption))
        blocks.append(error_growth(network))
        blocks.append(changed_predictions(network, classes))
        blocks += confusions(network, classes)
        blocks.append(rounding(network))
        blocks.append(layer_work(network))
        blocks.append(candidates(network))
        blocks.append(layer_times(network))
        blocks.append(device_times(network))
    lead = (
        "Trained networks, rounded once to FP16 and run by routines that read FP16 and add up in FP32. What is timed "
        "are plans by measurement: where that is faster within the budget, a layer multiplies in BF16 or runs on "
        "its weights widened to FP32, and its sentence says so."
    )
    return Section("bits", "Fewer bits", lead, tuple(block for block in blocks if block is not None))


def _network_text(network: Mapping[str, Any]) -> str:
    sentences = []
    sizes = network.get("file_bytes") or {}
    if sizes:
        sentences.append(f"File {n_bytes(sizes.get('fp32'))} at FP32, {n_bytes(sizes.get('fp16'))} at FP16.")
    bounds: dict[str, int] = {}
    for row in network.get("timings") or []:
        bounds[bound_text(row.get("bound"))] = bounds.get(bound_text(row.get("bound")), 0) + 1
    if bounds:
        ordered = sorted(bounds.items(), key=lambda item: -item[1])
        total = plural(sum(bounds.values()), "timing")
        sentences.append(f"What bounds the {total}: {listing(f'{bound} ({n})' for bound, n in ordered)}.")
    return " ".join(sentences)


def numbers_section(
    matrices: Mapping[str, Any],
    scaling: Mapping[str, Any] | None,
    arrays: Mapping[str, np.ndarray],
    n_classes: int = 0,
) -> Section | None:
    """Per matrix: structure beside facts, levels, what it was for; then growth with N."""
    rows = (scaling or {}).get("rows") or []
    if not matrices and not rows:
        return None
    blocks: list[Block | None] = []
    for name, matrix in matrices.items():
        blocks += _matrix(name, matrix, arrays, n_classes)
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
    structure = matrix.get("structure") or {}
    n = structure.get("n") or matrix.get("n") or 0
    drawing = block_structure(name, int(n), structure.get("blocks", ()))
    picture = None
    if drawing is not None:
        caption = f"{drawing.description} Rows and columns in tree order; numbers are ranks."
        picture = Illustration((drawing,), caption, shape="single")
    ranks = ranks_by_level(name, int(n), structure.get("blocks", ()), structure.get("levels", ()))
    text = result_text(name, matrix, n_classes)
    quantity = Quantity.of(matrix.get("result") or {})
    notes = [note for key in ("compress", "solve") for note in (matrix.get(key) or {}).get("notes") or []]
    blocks: list[Block | None] = [
        Heading(name),
        Prose(text) if text else None,
        Prose(fit_text(matrix)) if fit_text(matrix) else None,
        Facts(matrix_facts(matrix), picture, tables.levels(matrix)),
        Illustration((ranks,), f"{ranks.description} Bars span all blocks.", shape="single")
        if ranks
        else None,
        Prose(f"Noted on the way: {'; '.join(str(note) for note in notes)}.", quiet=True) if notes else None,
    ]
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


def rules_section(rules: Sequence[Mapping[str, Any]]) -> Section | None:
    """Where the time went."""
    table = tables.rule_costs(rules)
    if table is None:
        return None
    slowest = max(rules, key=lambda row: row["seconds"] if is_number(row.get("seconds")) else 0.0)
    lead = f"{plural(len(rules), 'job')}; the longest is {slowest.get('rule', DASH)} {slowest.get('job', '')}".rstrip()
    return Section("time", "Where the time went", f"{lead} with {seconds(slowest.get('seconds'))}.", (table,))


def history_section(history: Mapping[str, Any]) -> Section | None:
    """What moved beyond the noise of past runs, and the commits since; nothing where there is no past."""
    n_figures = history.get("n_figures") or 0
    if not n_figures:
        return None
    changes, commits = history.get("changes") or [], history.get("commits") or []
    compared = (
        f"{plural(n_figures, 'figure')} of {plural(history.get('n_artefacts') or 0, 'artefact')} compared with up to "
        f"{plural(history.get('n_runs') or 0, 'past run')} of the same specs on the same kind of machine"
    )
    if not changes:
        return Section("past", "Against past runs", f"{compared}: none moved beyond their noise.")
    worse = sum(change["verdict"] == "worse" for change in changes)
    lead = (
        f"{compared}: {count(len(changes))} moved beyond their noise, {count(worse)} of them for the worse."
    )
    blocks: list[Block] = [tables.changes(changes)]
    if commits:
        blocks.append(tables.commits(commits))
    return Section("past", "Against past runs", lead, tuple(blocks))
