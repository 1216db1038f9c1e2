"""Stage `convert`: convert a trained network to half precision, and measure the accuracy lost.

A network comes from the stage `train`, from a package with a trained network, or from a user's own file:
`python -m pipeline convert --onnx FILE --inputs IMAGES.npy --labels LABELS.npy --output FOLDER/manifest.json`, or the
same from a study's `precision.networks`, with `--spec`.
"""

from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.artifacts.results.half_network import (
    Accuracy,
    ConvertedLayer,
    FileBytes,
    HalfNetworkFacts,
    LayerErrorRow,
)
from pipeline.artifacts.results.network import NetworkFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.precision import OwnNetwork
from pipeline.config.training import TrainingSpec
from pipeline.data.samples import is_noise
from pipeline.errors import ConfigError, ConvergenceError, errors_about
from pipeline.precision import Budget, HalfNetwork, compare_predictions
from pipeline.precision.error import LayerError
from pipeline.precision.plan import Layer
from pipeline.precision.predictions import LabelError, check_labels
from pipeline.stages.parts.images import read_images
from pipeline.stages.parts.networks import model_of
from pipeline.stages.parts.own_networks import budget_of, named, network_of, samples_of
from pipeline.stages.parts.spec import read_spec, written

CALIBRATION_SAMPLES = 4096  # four of them are a tenth of a percentage point
ERROR_SAMPLES = 256  # through float64, for the errors of each layer's output
AT_ONCE = 512  # samples through the network as it was trained
_OF_A_LAYER = "name", "kind", "routine", "weight_dtype", "n_parameters", "flops"


@dataclass(frozen=True)
class _Source:
    """A network to convert, images with their classes to calibrate and test it, and its description for the result."""

    module: nn.Module
    calibration: tuple[Tensor, Tensor | None]
    test: tuple[Tensor, Tensor | None]
    n_bytes: int  # of the network's file
    run: str
    seed: int | None
    labeled_by: str  # the file or artefact with the classes


def run(options: Namespace) -> None:
    """Fold, round once, choose routines, and compare with the network as it was trained on the whole test split."""
    if options.spec:
        own = read_spec(options.spec, OwnNetwork)
        with errors_about(f"precision.networks.{options.output.parent.name}"):
            _convert(options, _of_network(own), own)
    elif options.onnx:
        if options.inputs is None:
            raise ConfigError("convert --onnx needs --inputs, an .npy file of samples like those to come")
        _convert(options, _of_network(named(options.onnx, options)), None)
    else:
        _convert(options, _of_study(options), None)


def _convert(options: Namespace, source: _Source, own: OwnNetwork | None) -> None:
    samples, labels = source.calibration
    budget = budget_of(own) if own is not None else Budget(points=options.budget_points)
    try:
        network = HalfNetwork.convert(source.module, samples, labels, budget=budget)
        if source.test[1] is not None:
            check_labels(source.test[1], network.layers[-1].output_shape[0])
    except LabelError as failure:
        raise ConfigError(f"{source.labeled_by}: {failure}") from failure
    images, test_labels = source.test
    with torch.no_grad():
        before = torch.cat([source.module(part) for part in torch.split(images, AT_ONCE)])
    # By the project's own routines: their sums don't depend on the number of threads, so all machines agree bit by bit.
    calibration_logits = network.float_twin()(samples)
    n_before = network.n_saturated  # so far the converter has run only the calibration set
    after = network(images)
    n_saturated = network.n_saturated - n_before
    errors = {error.layer: error for error in network.layer_errors(images[:ERROR_SAMPLES])}
    with written(options, "half_network", own or {}) as draft:
        draft.save_tensors("weights", network.tensors())
        draft.save_tensors("complete", network.parameters)  # errors are measured against these
        draft.save_json("plan", network.plan())
        draft.save_json("layers", [_row(layer, errors[layer.name]) for layer in network.layers])
        draft.save_array("calibration_logits", calibration_logits.numpy())
        draft.save_array("predictions_fp32", before.argmax(dim=1).numpy(), unit="class")
        draft.save_array("predictions_fp16", after.argmax(dim=1).numpy(), unit="class")
        sizes = FileBytes(
            fp32=source.n_bytes,
            fp16=(draft.folder / "weights.safetensors").stat().st_size
            + (draft.folder / "plan.json").stat().st_size,
        )
        accuracy = None
        if test_labels is not None:
            found = compare_predictions(before, after, test_labels)
            draft.save_json("predictions", found)
            accuracy = Accuracy.model_validate(found.summary())
            print(
                f"{source.run}: accuracy {found.accuracy_before:.4f} -> {found.accuracy_after:.4f}, "
                f"{found.n_changed} of {found.n_samples} predictions changed"
            )
        draft.facts = HalfNetworkFacts(
            run=source.run if own is None else options.output.parent.name,
            seed=source.seed,
            n_saturated=n_saturated,
            budget_points=budget.points,
            file_bytes=sizes,
            accuracy=accuracy,
            generated_inputs=is_noise(samples),
        )
    kept = [layer.name for layer in network.layers if layer.weight_dtype == "float32" and layer.has_weights]
    if kept:
        print(f"kept at float32, since half precision costs more than the budget: {', '.join(kept)}")
    if kept and all(layer.output_dtype == "float32" for layer in network.layers[:-1]):
        print("kept at float32 as well: all activations")
    print(f"{sizes.fp32 / 1e3:.1f} kB -> {sizes.fp16 / 1e3:.1f} kB: {options.output}")


def _row(layer: Layer, error: LayerError) -> ConvertedLayer:
    return ConvertedLayer(
        **{key: getattr(layer, key) for key in _OF_A_LAYER},
        output_error=error.relative_error,
        output_sqnr_db=error.sqnr_db,
        activations=LayerErrorRow.model_validate(error, from_attributes=True),
        **(asdict(layer.rounding) if layer.rounding is not None else {}),
    )


def _of_study(options: Namespace) -> _Source:
    if options.weights is None or options.dataset is None:
        raise ConfigError(
            "convert needs --weights and --dataset, manifests of a study, or --onnx and --inputs, files of your own"
        )
    trained = Artifact.open(options.weights, "network")
    facts = trained.facts_as(NetworkFacts)
    if facts.failure:
        raise ConvergenceError(
            f"training.runs.{facts.run}: seed {facts.seed} diverged, so that there is no network to convert: "
            f"{facts.failure}"
        )
    dataset = Artifact.open(options.dataset, "dataset")
    model = model_of(TrainingSpec.model_validate(trained.spec).model, dataset, facts.seed)
    model.load_state_dict(trained.tensors("weights"))
    samples, labels = read_images(dataset, "validation")
    return _Source(
        module=model.eval(),
        calibration=(samples[:CALIBRATION_SAMPLES], labels[:CALIBRATION_SAMPLES]),
        test=read_images(dataset, "test"),
        n_bytes=(trained.folder / "weights.safetensors").stat().st_size,
        run=facts.run,
        seed=facts.seed,
        labeled_by=str(options.dataset),
    )


def _of_network(own: OwnNetwork) -> _Source:
    """A network that is trained already; the first half of the samples calibrates it, the other half tests it."""
    module, n_bytes = network_of(own)
    samples, labels = samples_of(own)
    half = (len(samples) + 1) // 2
    parts = [
        (samples[part], None if labels is None else labels[part]) for part in (slice(half), slice(half, None))
    ]
    if len(parts[1][0]) == 0:
        parts[1] = parts[0]
    return _Source(
        module=module.eval(),
        calibration=parts[0],
        test=parts[1],
        n_bytes=n_bytes,
        run=own.package or Path(own.path).stem,
        seed=None,
        labeled_by=str(own.labels),
    )
