import json

from pipeline.artifacts.store import Artifact
from pipeline.stages.parts.images import read_images


def test_parts_are_disjoint_and_normalized_by_the_training_part(bench):
    bench.dataset()
    dataset = Artifact.open(bench.manifest("dataset"), "dataset")
    images = {
        part: {image.tobytes() for image in dataset.array(f"{part}_images")}
        for part in ("train", "validation")
    }
    assert len(dataset.array("train_images")) == 128
    assert not images["train"] & images["validation"]
    images, labels = read_images(dataset, "train")
    assert images.shape == (128, 1, 8, 8)
    assert labels.shape == (128,)
    # Sums of 8,192 single-precision numbers of size 1.
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std(correction=0)) - 1) < 1e-5


def test_the_same_seed_gives_the_same_bytes(bench):
    bench.dataset()
    first = Artifact.open(bench.manifest("dataset"), "dataset").manifest["files"]
    bench.dataset()
    assert Artifact.open(bench.manifest("dataset"), "dataset").manifest["files"] == first


def test_more_samples_than_there_are_is_one_line(bench, capsys):
    spec = bench.folder / "spec/dataset.json"
    # A study that asks for this is refused before; the images of a folder are counted here.
    spec.write_text(json.dumps(json.loads(spec.read_text()) | {"train_samples": 10**6}))
    assert bench.run("dataset", spec=spec) == 2
    assert "1000000" in capsys.readouterr().err
    assert not bench.manifest("dataset").exists()
