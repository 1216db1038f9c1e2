"""Stage `time_layers`: how much faster each layer got, why, and at what error.

Routines are first chosen by measurement, separately for each batch size. The converted network itself stays as it is,
so that results computed from it don't depend on the load of this machine. Times, errors and predictions all belong to
the plans chosen here.
"""

from argparse import Namespace
from dataclasses import dataclass, replace

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline.artifacts.results.half_network import (
    Accuracy,
    Answers,
    CandidateRow,
    HalfNetworkFacts,
    LayerErrorRow,
    PlanTest,
    TimingsFacts,
    Verified,
)
from pipeline.artifacts.store import Artifact
from pipeline.config.precision import OwnNetwork, Timing
from pipeline.errors import ArtifactError, ConfigError, errors_about
from pipeline.precision import (
    Budget,
    HalfNetwork,
    LayerTiming,
    Sampling,
    Selection,
    compare_predictions,
    measure_attained,
    measure_roofs,
    time_on_device,
)
from pipeline.precision.predictions import check_labels
from pipeline.runtime.device import choose_device
from pipeline.runtime.words import counted
from pipeline.stages.parts.images import read_images
from pipeline.stages.parts.own_networks import budget_of, named, samples_of, timing_of
from pipeline.stages.parts.spec import read_spec, written

VERIFICATION_SAMPLES = 4096
ERROR_SAMPLES = 256  # through float64, for the errors of each layer's output
SECONDS_PER_SAMPLE = 0.05  # after this time for each wanted sample, disturbed samples are no longer replaced


@dataclass(frozen=True)
class _Samples:
    """Samples to choose plans with, the network's outputs for them before rounding, and other samples for a test."""

    inputs: Tensor
    labels: Tensor | None
    exact: Tensor
    test_inputs: Tensor
    test_labels: Tensor | None


def run(options: Namespace) -> None:
    """Measure the machine's roofs, choose routines, then time every layer at both precisions side by side."""
    spec = read_spec(options.spec, Timing) if options.spec is not None else Timing()
    converted = Artifact.open(options.network, "half_network")
    budget = Budget(points=spec.budget_points)
    # A study's own network names its samples.
    own = converted.spec_as(OwnNetwork) if converted.spec else None
    if own is not None and options.inputs is None:
        budget, spec = budget_of(own), timing_of(own, spec)
    network = _network(converted)
    samples = _samples(options, converted, own)
    device = choose_device(spec.device)
    n = spec.min_samples
    choosing = Sampling(n_samples=n, seconds_at_most=n * SECONDS_PER_SAMPLE)
    # So many samples are guaranteed only for the final times; for all routines of a large network that takes minutes.
    timing = replace(choosing, n_at_least=n)
    rows: list[LayerTiming] = []
    selections: list[Selection] = []
    with threadpool_limits(1):
        roofs = measure_attained(measure_roofs())
        for batch in spec.batch_sizes:
            selection = network.choose_routines(
                samples.inputs,
                samples.labels,
                batch=batch,
                exact=samples.exact,
                budget=budget,
                sampling=choosing,
            )
            selections.append(selection)
            for mode in spec.modes:
                rows += selection.network.time_layers(
                    samples.inputs, batch_sizes=(batch,), mode=mode, roofs=roofs, sampling=timing
                )
    before = network.float_twin()(samples.test_inputs)
    tested = {selection.batch: _tested(selection.network, before, samples) for selection in selections}
    for row in rows:
        if row.mode == spec.modes[0]:
            error = next(e for e in tested[row.batch].errors if e.layer == row.layer)
            print(f"batch {row.batch:3d}  {row.layer:12s} {row.reason} Error {error.relative_error:.2g}.")
    n_disturbed = sum(row.n_disturbed for row in rows)
    if n_disturbed:
        told, verb = counted(n_disturbed, "sample"), "counts" if n_disturbed == 1 else "count"
        print(
            f"warning: {told} that other work disturbed {verb}, as there were too few others; times may be too long"
        )
    print(_told(converted, [row for row in rows if row.mode == spec.modes[0]], selections))
    with written(options, "timings", spec) as draft:
        draft.save_json("timings", rows)
        draft.save_json("roofs", roofs)
        draft.save_json("plans", {str(s.batch): s.network.plan() for s in selections})
        draft.save_json("tests", {str(batch): found for batch, found in tested.items()})
        draft.save_json(
            "candidates",
            [CandidateRow.model_validate(row) for selection in selections for row in selection.rows()],
        )
        if device.type == "cuda":
            draft.save_json(
                "device_timings",
                time_on_device(
                    network.layers, network.parameters, samples.inputs, device, batch_sizes=spec.batch_sizes
                ),
            )
        draft.facts = TimingsFacts(
            run=converted.facts_as(HalfNetworkFacts).run,
            verification={
                str(s.batch): Verified.model_validate(s.verification, from_attributes=True)
                for s in selections
            },
            accuracy={str(batch): found.accuracy for batch, found in tested.items() if found.accuracy},
        )


def _told(converted: Artifact, rows: list[LayerTiming], selections: list[Selection]) -> str:
    """The job's result in a line: how much faster each plan is, and the largest error of all plans."""
    told: list[str] = []
    for selection in selections:
        mine = [row for row in rows if row.batch == selection.batch]
        speedup = sum(row.seconds_fp32 for row in mine) / sum(row.seconds_fp16 for row in mine)
        told.append(f"{speedup:.2f}x {'' if told else 'as fast '}at batch {selection.batch}")
    error = max(selection.verification.output_error for selection in selections)
    facts = converted.facts_as(HalfNetworkFacts)
    of = " for inputs of noise" if facts.generated_inputs else ""
    return f"{facts.run}: {', '.join(told)}; error at most {error:.2g}{of}"


def _network(converted: Artifact) -> HalfNetwork:
    """Return the network as it was converted, with its weights before rounding."""
    if "complete.safetensors" not in converted.manifest["files"]:
        raise ArtifactError(
            f"{converted.folder}: holds no complete.safetensors, which former versions did not keep; convert the "
            "network again"
        )
    return HalfNetwork.from_plan(
        converted.json("plan"), converted.tensors("weights"), converted.tensors("complete")
    )


def _tested(network: HalfNetwork, before: Tensor, samples: _Samples) -> PlanTest:
    """Return the errors of a plan, layer by layer, and its answers for the test samples."""
    n_before = network.n_saturated
    after = network(samples.test_inputs)
    n_saturated = network.n_saturated - n_before
    labels = samples.test_labels
    found = compare_predictions(before, after, labels) if labels is not None else None
    return PlanTest(
        errors=[
            LayerErrorRow.model_validate(error, from_attributes=True)
            for error in network.layer_errors(samples.test_inputs[:ERROR_SAMPLES])
        ],
        n_saturated=n_saturated,
        accuracy=Accuracy.model_validate(found.summary()) if found else None,
        predictions=Answers.model_validate(found, from_attributes=True) if found else None,
    )


def _samples(options: Namespace, converted: Artifact, own: OwnNetwork | None) -> _Samples:
    """Return the converter's samples, in the same order, and the remaining ones for a test."""
    exact = torch.from_numpy(converted.array("calibration_logits").copy())
    n = len(exact)
    if options.inputs is not None and options.dataset is None:
        own = named(options.network, options)
    labels: Tensor | None
    test: tuple[Tensor, Tensor | None]
    if options.dataset is not None:
        dataset = Artifact.open(options.dataset, "dataset")
        inputs, labels = read_images(dataset, "validation", min(n, VERIFICATION_SAMPLES))
        test = read_images(dataset, "test")
    elif own is not None:
        inputs, labels = samples_of(own)
        layers = converted.json("plan")["layers"]
        wanted = tuple(layers[0]["input_shape"])
        if inputs.shape[1:] != wanted:
            raise ConfigError(
                f"{own.inputs}: holds samples of shape {tuple(inputs.shape[1:])}; wanted {wanted}, which the "
                f"network in {options.network} takes"
            )
        if labels is not None:
            with errors_about(str(own.labels)):
                check_labels(labels, layers[-1]["output_shape"][0])
        left = slice(n if len(inputs) > n else 0, None)
        test = inputs[left], None if labels is None else labels[left]
        inputs, labels = inputs[:n], None if labels is None else labels[:n]
    else:
        raise ConfigError(
            "time_layers needs --dataset, the manifest of a study's data set, or --inputs, an .npy file of samples"
        )
    return _Samples(inputs, labels, exact[: len(inputs)], *test)
