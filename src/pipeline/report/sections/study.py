"""The sections on the study as a whole: what is missing, where the time went, what changed, and its provenance."""

from pipeline.report import tables
from pipeline.report.content import Column, NamedValues, PageSection, Table
from pipeline.report.drawing import Arrays
from pipeline.report.facts import provenance_facts
from pipeline.report.formatting import count, plural, seconds
from pipeline.report.metrics import Metrics


def missing_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """List each missing artefact with its reason; nothing where the study is whole."""
    if not metrics.missing:
        return None
    n = len(metrics.missing)
    lead = (
        f"{plural(n, 'result')} of this study {'is' if n == 1 else 'are'} missing, because jobs failed. Means, "
        "verdicts and comparisons on this page are of what is there."
    )
    rows = [(one.artefact, one.reason) for one in metrics.missing]
    table = Table("Missing results and why", ("Result", Column("Reason")), rows)
    return PageSection("missing", "What is missing", lead, (table,))


def rules_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Tell which rules took how long."""
    rules = metrics.rules
    if not rules:
        return None
    slowest = max(rules, key=lambda row: row.seconds or 0.0)
    longest = f"{slowest.rule} {slowest.job}".rstrip()
    lead = f"{plural(len(rules), 'job')}; the longest is {longest} with {seconds(slowest.seconds)}."
    return PageSection("time", "Where the time went", lead, (tables.rule_costs(rules),))


def history_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Show what changed beyond the noise of past runs, and the commits since; nothing where there is no past."""
    history = metrics.history
    if history is None or not history.n_figures:
        return None
    changes = history.changes
    compared = (
        f"{plural(history.n_figures, 'figure')} of {plural(history.n_artefacts, 'artefact')} were compared with up to "
        f"{plural(history.n_runs, 'past run')} of the same specs on the same kind of machine"
    )
    if not changes:
        return PageSection("past", "Against past runs", f"{compared}: none moved beyond their noise.")
    n, worse = count(len(changes)), count(sum(change.verdict == "worse" for change in changes))
    lead = f"{compared}: {n} moved beyond their noise, {worse} of them for the worse."
    found = tables.changes(changes), tables.commits(history.commits)
    return PageSection("past", "Against past runs", lead, found)


def provenance_section(metrics: Metrics, _: Arrays) -> PageSection | None:
    """Tell where, when and from what the study was made."""
    facts = provenance_facts(metrics.provenance)
    if not facts:
        return None
    lead = "What these results were made from."
    return PageSection("provenance", "Provenance", lead, (NamedValues(facts),))
