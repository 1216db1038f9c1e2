"""Stage `convert`: a trained network at half precision, and what that cost."""

from argparse import Namespace
from dataclasses import asdict

import torch

from pipeline.artifacts.store import Artifact, create
from pipeline.precision import HalfNetwork
from pipeline.runtime.provenance import provenance
from pipeline.stages.parts.images import read_images
from pipeline.stages.parts.networks import model_of

CALIBRATION_SAMPLES = 256
ERROR_SAMPLES = 1024  # through float64, for the errors of each layer's output


def run(options: Namespace) -> None:
    """Fold, round once, and compare with the network as it was trained on the whole test split."""
    trained = Artifact.open(options.weights, "network")
    dataset = Artifact.open(options.dataset, "dataset")
    model = model_of(trained.spec["model"], dataset, trained.facts["seed"])
    model.load_state_dict(trained.tensors("weights"))
    model.eval()
    images, labels = read_images(dataset, "test")
    network = HalfNetwork.convert(model, read_images(dataset, "train")[0][:CALIBRATION_SAMPLES])
    with torch.no_grad():
        before = model(images).argmax(dim=1)
    after = network(images).argmax(dim=1)
    n_saturated = network.n_saturated
    errors = {error.layer: error for error in network.layer_errors(images[:ERROR_SAMPLES])}
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
                "output_error": errors[layer.name].relative_error,
                "output_sqnr_db": errors[layer.name].sqnr_db,
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
                "fp32": float((before == labels).double().mean()),
                "fp16": float((after == labels).double().mean()),
                "n_samples": len(labels),
                "n_changed": int((before != after).sum()),
            },
            "n_saturated": n_saturated,
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
