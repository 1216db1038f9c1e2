"""The section on the studies beside this one: do its verdicts hold for other data and other networks?"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

from pipeline.report.content import Block, Column, PageSection, Prose, Table, TableCell
from pipeline.report.critical_batches import predictions_in_words
from pipeline.report.drawing import Arrays
from pipeline.report.elsewhere import claims_of, names_of
from pipeline.report.formatting import DASH, count, plural
from pipeline.report.metrics import Metrics
from pipeline.report.runs import comparable, label_with_divergence, method_of, runs_of
from pipeline.report.standings import beside, preferred

Key = TypeVar("Key", bound=Hashable)


def elsewhere_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Set the verdicts of the study beside those of the studies that were computed with it."""
    if not metrics.beside or not metrics.training:
        return None
    studies = {metrics.study.name: metrics, **metrics.beside}
    names = names_of(metrics)
    called = {names[name]: study for name, study in studies.items()}
    links = (_link(name, names[name], study) for name, study in metrics.beside.items())
    tables = (make(called) for make in (_claims, _standings, _best, _critical_batches))
    blocks: list[Block] = [*tables, *links]
    return PageSection("elsewhere", "Do the claims hold in other studies?", _lead(metrics, names), blocks)


def _lead(metrics: Metrics, names: Mapping[str, str]) -> str:
    """Count the claims with the same verdict in this study and in each of those beside it."""
    here = claims_of(metrics)
    said = []
    for name, study in metrics.beside.items():
        there = claims_of(study)
        common = [statement for statement in here if statement in there]
        same = sum(here[statement].verdict == there[statement].verdict for statement in common)
        if common:
            claims = plural(len(common), "claim")
            said.append(f"of {claims}, {count(same)} get the same verdict on {names[name]}")
    judges = "Each study judges by its own images, networks and trials."
    text = "; ".join(said) or ("No claim is judged both here and there" if here else "")
    return f"{text[0].upper()}{text[1:]}. {judges}" if text else judges


def _claims(studies: Mapping[str, Metrics]) -> Table:
    """One row per claim, with the numbers of each study below it."""
    judged = {name: claims_of(study) for name, study in studies.items()}
    statements = list(dict.fromkeys(statement for claims in judged.values() for statement in claims))
    return Table(
        "The claims in each study",
        ("Claim", *map(Column, studies)),
        [(key, *(claims[key].verdict if key in claims else DASH for claims in judged.values())) for key in statements],
        details=[
            tuple((name, claims[key].evidence) for name, claims in judged.items() if key in claims)
            for key in statements
        ],
    )  # fmt: skip


def _rows(found: Mapping[str, Mapping[Key, TableCell]], least: int) -> dict[Key, tuple[TableCell, ...]]:
    """The cells of all studies by key, with a dash where a study has none, for keys of so many studies at least."""
    keys = [key for cells in found.values() for key in cells]
    return {
        key: tuple(cells.get(key, DASH) for cells in found.values())
        for key in dict.fromkeys(keys)
        if keys.count(key) >= least
    }


def _standings(studies: Mapping[str, Metrics]) -> Table:
    """Every method at a larger batch that several studies have, compared with each study's reference."""
    found = {name: _beside_reference(study) for name, study in studies.items()}
    return Table(
        "Points of test accuracy above the reference of the claims, in each study",
        ("Method", "Batch", *studies),
        [(method, count(batch), *cells) for (method, batch), cells in _rows(found, least=2).items()],
        note="Methods that several studies have at one batch, each with the options that its own trials chose. "
        "Intervals and verdicts are those of the tables of each study.",
    )


def _beside_reference(study: Metrics) -> dict[tuple[str, int], tuple[str, str]]:
    """Points and verdict by method and batch."""
    reference = runs_of(study.training, study.claims_of).get("reference")
    if reference is None:
        return {}
    return {
        (method_of(run), run.batch_size): beside(run, reference)
        for run in comparable(study.training).values()
        if run.batch_size > reference.batch_size and beside(run, reference)[0]
    }


def _best(studies: Mapping[str, Metrics]) -> Table:
    """The run with the best validation accuracy at every batch, in each study."""
    found = {
        name: {batch: label_with_divergence(*best) for batch, (best, *_) in preferred(study.training).items()}
        for name, study in studies.items()
    }
    return Table(
        "The best method at each batch, in each study",
        ("Batch", *map(Column, studies)),
        [(count(batch), *cells) for batch, cells in sorted(_rows(found, least=2).items())],
        note="The best is chosen on validation images.",
    )


def _critical_batches(studies: Mapping[str, Metrics]) -> Table:
    """What noise predicts and what the sweep finds, by method."""
    found = {
        name: predictions_in_words(study.training, study.sweeps, study.predictions)
        for name, study in studies.items()
    }
    return Table(
        "The batch from which a method loses, predicted and found, in each study",
        ("Method", *map(Column, studies)),
        [(method, *cells) for method, cells in _rows(found, least=1).items()],
    )


def _link(name: str, called: str, study: Metrics) -> Prose:
    about = study.study.description
    text = f"{called}: {about}" if about else f"{called}."
    return Prose(text, link=(f"../../{name}/report/index.html", f"The page of {name}"))
