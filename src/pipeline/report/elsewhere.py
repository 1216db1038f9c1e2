"""The studies beside this one: their names on the page, and their verdicts on its claims."""

from collections.abc import Mapping

from pipeline.report.claims import Claim, judge_claims
from pipeline.report.metrics import Metrics


def names_of(metrics: Metrics) -> dict[str, str]:
    """Name each study by its data, by data and network, or by its own name: the first of these that tells all apart."""
    studies = {metrics.study.name: metrics.study} | {name: one.study for name, one in metrics.beside.items()}
    data = {name: study.dataset.name if study.dataset else "" for name, study in studies.items()}
    networks = {name: study.model.name if study.model else "" for name, study in studies.items()}
    both = {name: f"{data[name]} · {networks[name]}" for name in studies}
    apart = (names for names in (data, both) if len(set(names.values())) == len(studies))
    return next(apart, {name: name for name in studies})


def claims_of(metrics: Metrics) -> Mapping[str, Claim]:
    """Judge the claims of a study; return them by their statements."""
    return {claim.statement: claim for claim in judge_claims(metrics.training, metrics.claims_of)}


def claims_elsewhere(metrics: Metrics) -> dict[str, Mapping[str, Claim]]:
    """Judge the claims of the studies beside this one; return them by the page's name of each study."""
    names = names_of(metrics)
    return {names[name]: claims_of(study) for name, study in metrics.beside.items()}
