"""Stage `time_layers`: how much faster each layer got, and why."""

from argparse import Namespace
from dataclasses import asdict

from threadpoolctl import threadpool_limits

from pipeline.artifacts.store import Artifact, create
from pipeline.precision import HalfNetwork, Sampling, measure_roofs
from pipeline.runtime.provenance import provenance
from pipeline.stages.parts.images import read_images
from pipeline.stages.parts.spec import read_spec


def run(options: Namespace) -> None:
    """Measure the machine's roofs, then every layer at both precisions beside each other, on one core."""
    spec = read_spec(options.spec)
    converted = Artifact.open(options.network, "half_network")
    dataset = Artifact.open(options.dataset, "dataset")
    network = HalfNetwork.from_plan(converted.json("plan"), converted.tensors("weights"))
    batch_sizes = tuple(spec["batch_sizes"])
    inputs, _ = read_images(dataset, "validation")
    inputs = inputs.repeat(-(-max(batch_sizes) // len(inputs)), 1, 1, 1)[: max(batch_sizes)]
    with threadpool_limits(1):
        roofs = measure_roofs()
        sampling = Sampling(n_samples=spec["min_samples"])
        timings = network.time_layers(inputs, batch_sizes=batch_sizes, roofs=roofs, sampling=sampling)
    rows = [asdict(timing) for timing in timings]
    for row in rows:
        print(f"batch {row['batch']:3d}  {row['layer']:12s} {row['reason']}")
    with create(options.output, kind="timings", spec=spec, provenance=provenance(options.code)) as draft:
        draft.save_json("timings", rows)
        draft.save_json("roofs", roofs.to_dict())
        draft.facts["run"] = converted.facts["run"]
