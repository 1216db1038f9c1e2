"""Stage `predict`: predict the batch from which each method loses, from the noise measured at a small batch."""

import math
from argparse import Namespace
from itertools import pairwise
from statistics import fmean

from pydantic import BaseModel

from pipeline.artifacts.results.critical_batch import CriticalBatchFacts, Prediction, SeedPrediction
from pipeline.artifacts.results.network import EpochRow, NetworkFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.report import PredictSpec
from pipeline.errors import ArtifactError
from pipeline.stages.parts.spec import read_spec, written
from pipeline.training.halves import Noise
from pipeline.training.noise_scale import critical_batch, noise_scale


class _Recipe(BaseModel):
    """The part of a training run's spec on its batches."""

    batch_size: int


class _Trained(BaseModel):
    """The part of a trained network's spec on its run."""

    run: _Recipe


def run(options: Namespace) -> None:
    """Make a prediction for each method, without reading any network of a larger batch."""
    spec = read_spec(options.spec, PredictSpec)
    networks = [Artifact.open(path, "network") for path in options.networks]
    methods = {}
    for method, name in spec.sweeps.items():
        mine = [network for network in networks if network.facts_as(NetworkFacts).run == name]
        if not mine:
            raise ArtifactError(
                f"{options.spec}: wanted the networks of {name}, found none; name their manifests"
            )
        methods[method] = _predicted(name, mine)
        batch = methods[method].critical_batch
        loses = "no batch loses" if batch is None else f"batches lose from about {batch:.3g} samples"
        print(f"{method}: {loses}, by the gradient noise of {name}")
    with written(options, "critical_batch", spec) as draft:
        draft.facts = CriticalBatchFacts(methods=methods)


def _predicted(name: str, networks: list[Artifact]) -> Prediction:
    batch_size = networks[0].spec_as(_Trained).run.batch_size
    trained = [network for network in networks if not network.facts_as(NetworkFacts).failure]
    seeds = [_of_seed(network, batch_size) for network in trained]
    found = [seed.critical_batch for seed in seeds]
    logarithms = [math.log(batch) for batch in found if batch]
    mean = math.exp(fmean(logarithms)) if logarithms and len(logarithms) == len(found) else None
    return Prediction(run=name, batch_size=batch_size, seeds=seeds, critical_batch=mean)


def _of_seed(network: Artifact, batch_size: int) -> SeedPrediction:
    rows = network.rows_as("history", EpochRow)
    noises = [Noise(row.noise_variance or 0.0, row.noise_square or 0.0) for row in rows]
    if not any(noise.variance for noise in noises):
        raise ArtifactError(f"{network.folder}: measured no noise; train it with noise_scale: true")
    steps = [after - before for before, after in pairwise([0, *(row.steps for row in rows)])]
    batch = critical_batch(zip(steps, noises, strict=True), batch_size)
    return SeedPrediction(
        seed=network.facts_as(NetworkFacts).seed,
        noise_scales=[_finite(noise_scale(noise)) for noise in noises],
        critical_batch=_finite(batch),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
