"""The section on the studies beside this one: do its verdicts hold for other data and other networks?"""

from collections.abc import Callable, Mapping

from pipeline.report.content import Block, Column, PageSection, Prose, Table
from pipeline.report.critical_batches import predictions_in_words
from pipeline.report.drawing import Arrays
from pipeline.report.elsewhere import claims_of, names_of
from pipeline.report.formatting import DASH, count, plural
from pipeline.report.metrics import Metrics
from pipeline.report.runs import comparable, label_with_divergence, method_of, runs_of
from pipeline.report.standings import beside, preferred

#: A run of one study is compared with the runs of others that have the same method and batch.
Key = tuple[str, int]


def elsewhere_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Set the verdicts of the study beside those of the studies that were computed with it."""
    if not metrics.beside or not metrics.training:
        return None
    studies = {metrics.study.name: metrics, **metrics.beside}
    names = names_of(metrics)
    called = {names[name]: study for name, study in studies.items()}
    links = (_link(name, names[name], study) for name, study in metrics.beside.items())
    blocks: list[Block] = [*(make(called) for make in TABLES), *links]
    return PageSection("elsewhere", "Does it hold elsewhere?", _lead(metrics, names), blocks)


def _lead(metrics: Metrics, names: Mapping[str, str]) -> str:
    """Count the claims with the same verdict in this study and in each of those beside it."""
    here = claims_of(metrics)
    said = []
    for name, study in metrics.beside.items():
        there = claims_of(study)
        common = [statement for statement in here if statement in there]
        same = sum(here[statement].verdict == there[statement].verdict for statement in common)
        if common:
            said.append(
                f"of {plural(len(common), 'claim')}, {count(same)} get the same verdict on {names[name]}"
            )
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
        [
            (statement, *(claims[statement].verdict if statement in claims else DASH for claims in judged.values()))
            for statement in statements
        ],
        details=[
            tuple((name, claims[statement].evidence) for name, claims in judged.items() if statement in claims)
            for statement in statements
        ],
    )  # fmt: skip


def _standings(studies: Mapping[str, Metrics]) -> Table:
    """Every method at a larger batch that several studies have, compared with each study's reference."""
    found = {name: _beside_reference(study) for name, study in studies.items()}
    keys = [key for rows in found.values() for key in rows]
    common = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    return Table(
        "Points of test accuracy above the reference of the claims, in each study",
        ("Method", "Batch", *(Column(name, numeric=True) for name in studies)),
        [
            (method, count(batch), *(rows.get((method, batch), DASH) for rows in found.values()))
            for method, batch in common
        ],
        note="Methods that several studies have at one batch, each with the options that its own trials chose. "
        "Intervals and verdicts are those of the tables of each study.",
    )


def _beside_reference(study: Metrics) -> dict[Key, tuple[str, str]]:
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
        name: {batch: runs[0] for batch, runs in preferred(study.training).items()}
        for name, study in studies.items()
    }
    batches = [batch for best in found.values() for batch in best]
    common = sorted({batch for batch in batches if batches.count(batch) > 1})
    return Table(
        "The best method at each batch, in each study",
        ("Batch", *map(Column, studies)),
        [
            (
                count(batch),
                *(label_with_divergence(*best[batch]) if batch in best else DASH for best in found.values()),
            )
            for batch in common
        ],
        note="The best is chosen on validation images.",
    )


def _critical_batches(studies: Mapping[str, Metrics]) -> Table:
    """What noise predicts and what the sweep finds, by method."""
    found = {
        name: predictions_in_words(study.training, study.sweeps, study.predictions)
        for name, study in studies.items()
    }
    methods = list(dict.fromkeys(method for rows in found.values() for method in rows))
    return Table(
        "The batch from which a method loses, predicted and found, in each study",
        ("Method", *map(Column, studies)),
        [(method, *(rows.get(method, DASH) for rows in found.values())) for method in methods],
    )


def _link(name: str, called: str, study: Metrics) -> Prose:
    about = study.study.description
    text = f"{called}: {about}" if about else f"{called}."
    return Prose(text, link=(f"../../{name}/report/index.html", f"The page of {name}"))


TABLES: tuple[Callable[[Mapping[str, Metrics]], Table], ...] = (
    _claims,
    _standings,
    _best,
    _critical_batches,
)
