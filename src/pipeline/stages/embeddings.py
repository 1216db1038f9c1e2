"""Stage `embeddings`: the features of a half-precision network as the points of a matrix."""

from argparse import Namespace

from pipeline.artifacts.results.half_network import HalfNetworkFacts
from pipeline.artifacts.results.points import PointsFacts
from pipeline.artifacts.store import Artifact
from pipeline.config.points import EmbeddingsSpec
from pipeline.precision import HalfNetwork
from pipeline.stages.parts.images import read_images
from pipeline.stages.parts.spec import read_spec, written


def run(options: Namespace) -> None:
    """Write the features of training and test images, their labels, and the test accuracy of the network's own head."""
    spec = read_spec(options.spec, EmbeddingsSpec)
    samples = spec.points.samples
    converted = Artifact.open(options.network, "half_network")
    dataset = Artifact.open(options.dataset, "dataset")
    network = HalfNetwork.from_plan(converted.json("plan"), converted.tensors("weights"))
    (images, labels), (test_images, test_labels) = (read_images(dataset, part) for part in ("train", "test"))
    features = network.features(images[:samples]).double().numpy()
    with written(options, "points", spec) as draft:
        draft.save_array("points", features)
        draft.save_array("labels", labels[:samples].numpy(), unit="class")
        draft.save_array("held_out_points", network.features(test_images).double().numpy())
        draft.save_array("held_out_labels", test_labels.numpy(), unit="class")
        facts = converted.facts_as(HalfNetworkFacts)
        draft.facts = PointsFacts(
            name="embeddings",
            n=len(features),
            dimension=features.shape[1],
            softmax_accuracy=facts.accuracy.fp16 if facts.accuracy else None,
            description=f"features of the half-precision network of {facts.run}",
        )
    print(f"embeddings: {len(features)} in {features.shape[1]} dimensions")
