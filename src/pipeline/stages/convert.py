"""Stage `convert`: a trained network at half precision, and what that cost."""

from argparse import Namespace
from dataclasses import asdict

import torch

from pipeline.artifacts.store import Artifact, create
from pipeline.precision import HalfNetwork
from pipeline.runtime.provenance import provenance
from pipeline.stages.shared import read_samples
from pipeline.stages.train import model_of

CALIBRATION_SAMPLES = 256


def run(options: Namespace) -> None:
    """Fold, round once, and compare with the network as it was trained on the whole test split."""
    trained = Artifact.open(options.weights, "network")
    dataset = Artifact.open(options.dataset, "dataset")
    model = model_of(trained.spec["model"], dataset, trained.facts["seed"])
    model.load_state_dict(trained.tensors("weights"))
    model.eval()
    test = read_samples(dataset, "test")
    network = HalfNetwork.convert(model, read_samples(dataset, "train").images[:CALIBRATION_SAMPLES])
    with torch.no_grad():
        before = model(test.images).argmax(dim=1)
    after = network(test.images).argmax(dim=1)
    with create(options.output, kind="half_network", spec={}, provenance=provenance(options.code)) as draft:
        draft.save_tensors("weights", network.tensors())
        draft.save_json("plan", network.plan())
        layers = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "routine": layer.routine,
                "n_parameters": layer.n_parameters,
                "flops": layer.flops,
                **(asdict(layer.rounding) if layer.rounding is not None else {}),
            }
            for layer in network.layers
        ]
        draft.save_json("layers", layers)
        draft.save_array("predictions_fp32", before.numpy(), unit="class")
        draft.save_array("predictions_fp16", after.numpy(), unit="class")
        draft.facts |= {
            "run": trained.facts["run"],
            "seed": trained.facts["seed"],
            "accuracy": {
                "fp32": float((before == test.labels).double().mean()),
                "fp16": float((after == test.labels).double().mean()),
                "n_samples": len(test.labels),
                "n_changed": int((before != after).sum()),
            },
            "file_bytes": {
                "fp32": (trained.folder / "weights.safetensors").stat().st_size,
                "fp16": (draft.folder / "weights.safetensors").stat().st_size
                + (draft.folder / "plan.json").stat().st_size,
            },
        }
        accuracy = draft.facts["accuracy"]
    print(
        f"{trained.facts['run']}: accuracy {accuracy['fp32']:.4f} -> {accuracy['fp16']:.4f}, "
        f"{accuracy['n_changed']} of {accuracy['n_samples']} predictions changed"
    )
