"""Stage `time_layers`: how much faster each layer got, and why.

Routines are chosen by measurement first, for each batch size anew; the converted network itself stays as it is, so that
results which are computed from it don't depend on the weather on this machine.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline.artifacts.store import Artifact, create
from pipeline.config.precision import Precision
from pipeline.errors import ConfigError
from pipeline.precision import (
    Budget,
    HalfNetwork,
    Sampling,
    Selection,
    measure_attained,
    measure_roofs,
    time_on_device,
)
from pipeline.runtime.device import choose_device
from pipeline.runtime.provenance import provenance
from pipeline.stages.parts.images import read_images, read_samples
from pipeline.stages.parts.spec import read_spec

VERIFICATION_SAMPLES = 4096
SECONDS_PER_SAMPLE = 0.05  # wanted samples times this are when sampling gives up: most layers need a tenth


def run(options: Namespace) -> None:
    """Measure the machine's roofs, choose routines, then time every layer at both precisions beside each other."""
    spec = _spec(options.spec)
    converted = Artifact.open(options.network, "half_network")
    network = HalfNetwork.from_plan(converted.json("plan"), converted.tensors("weights"))
    inputs, labels, exact = _samples(options, converted)
    device = choose_device(spec["device"])
    n_samples = spec["min_samples"]
    sampling = Sampling(n_samples=n_samples, seconds_at_most=n_samples * SECONDS_PER_SAMPLE)
    budget = Budget(points=spec["budget_points"])
    rows: list[dict[str, Any]] = []
    selections: list[Selection] = []
    with threadpool_limits(1):
        roofs = measure_attained(measure_roofs())
        for batch in spec["batch_sizes"]:
            selection = network.choose_routines(
                inputs, labels, batch=batch, exact=exact, budget=budget, sampling=sampling
            )
            selections.append(selection)
            for mode in spec["modes"]:
                timings = selection.network.time_layers(
                    inputs, batch_sizes=(batch,), mode=mode, roofs=roofs, sampling=sampling
                )
                rows += [asdict(timing) for timing in timings]
    for row in rows:
        if row["mode"] == spec["modes"][0]:
            print(f"batch {row['batch']:3d}  {row['layer']:12s} {row['reason']}")
    with create(options.output, kind="timings", spec=spec, provenance=provenance(options.code)) as draft:
        draft.save_json("timings", rows)
        draft.save_json("roofs", roofs.to_dict())
        draft.save_json("plans", {str(s.batch): s.network.plan() for s in selections})
        draft.save_json("candidates", [row for selection in selections for row in selection.rows()])
        if device.type == "cuda":
            timed = time_on_device(
                network.layers, network.parameters, inputs, device, batch_sizes=spec["batch_sizes"]
            )
            draft.save_json("device_timings", [asdict(row) for row in timed])
        draft.facts |= {
            "run": converted.facts["run"],
            "verification": {str(s.batch): s.verification.to_dict() for s in selections},
        }


def _spec(path: Path | None) -> dict[str, Any]:
    """The precision section that was frozen, or written by hand; without one, its defaults."""
    if path is None:
        return Precision().model_dump(mode="json")
    try:
        return Precision.model_validate(read_spec(path)).model_dump(mode="json")
    except ValidationError as failure:
        first = failure.errors()[0]
        parts = [str(path), ".".join(map(str, first["loc"])), first["msg"]]
        raise ConfigError(": ".join(filter(None, parts))) from None


def _samples(options: Namespace, converted: Artifact) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Inputs, labels, and what the network gave before rounding for them, as far as these are known."""
    labels: Tensor | None
    if options.dataset is not None:
        inputs, labels = read_images(Artifact.open(options.dataset, "dataset"), "validation")
        inputs, labels = inputs[:VERIFICATION_SAMPLES], labels[:VERIFICATION_SAMPLES]
    elif options.inputs is not None:
        inputs, labels = read_samples(Path(options.inputs), options.labels)
        wanted = tuple(converted.json("plan")["layers"][0]["input_shape"])
        if inputs.shape[1:] != wanted:
            raise ConfigError(
                f"{options.inputs}: holds samples of shape {tuple(inputs.shape[1:])}; wanted {wanted}, which the "
                f"network in {options.network} takes"
            )
    else:
        raise ConfigError(
            "time_layers needs --dataset, the manifest of a study's data set, or --inputs, an .npy file of samples"
        )
    exact = torch.from_numpy(converted.array("calibration_logits").copy())
    # The converter took the first samples, in the same order.
    return inputs[: len(exact)], None if labels is None else labels[: len(exact)], exact[: len(inputs)]
