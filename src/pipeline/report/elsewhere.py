"""The studies beside this one: what the page calls each, and what they make of its claims."""

from collections.abc import Mapping

from pipeline.report.claims import Claim, judge_claims
from pipeline.report.metrics import Metrics


def names_of(metrics: Metrics) -> dict[str, str]:
    """What the page calls a study and those beside it, by their names: data and network where these tell them apart."""
    studies = {metrics.study.name: metrics, **metrics.beside}
    short = {
        name: " · ".join(part.name for part in (one.study.dataset, one.study.model) if part is not None)
        for name, one in studies.items()
    }
    return short if len(set(short.values()) - {""}) == len(short) else {name: name for name in studies}


def claims_of(metrics: Metrics) -> Mapping[str, Claim]:
    """What a study makes of the claims, by their statements."""
    return {claim.statement: claim for claim in judge_claims(metrics.training, metrics.claims_of)}


def claims_elsewhere(metrics: Metrics) -> dict[str, Mapping[str, Claim]]:
    """What the studies beside this one make of the claims, each by what the page calls it."""
    names = names_of(metrics)
    return {names[name]: claims_of(study) for name, study in metrics.beside.items()}
