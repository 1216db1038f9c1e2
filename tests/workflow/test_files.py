"""Files outside of the results are inputs of a study: what hangs on them is made again when their contents change."""

import shutil

import pytest
from PIL import Image

pytestmark = pytest.mark.workflow


def test_a_study_follows_the_contents_of_its_images(workplace, study):
    images = workplace.folder / "my images"
    for part, value in (("train", 10), ("train", 200), ("test", 90)):
        for label in ("cat", "dog"):
            path = images / part / label / f"{value}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (6, 6), value).save(path)
    study["dataset"] = {
        "name": "folder", "directory": "my images", "image_size": 6, "channels": 1,
        "train_samples": 2, "validation_samples": 2,
    }  # fmt: skip
    study["training"]["runs"] = {"plain": study["training"]["runs"]["plain"] | {"batch_size": 2}}
    study["matrices"] = {"ball": study["matrices"]["ball"]}
    del study["precision"]
    workplace.write_study(study)
    dataset = "results/small/dataset/manifest.json"
    workplace.snakemake(dataset)
    assert workplace.planned("--until", "dataset") == set()
    shutil.copy(images / "train/cat/10.png", images / "train/cat/11.png")
    assert workplace.planned("--until", "dataset") == {"dataset"}
    (images / "train/cat/11.png").unlink()
    (images / "train/cat/10.png").touch()
    assert workplace.planned("--until", "dataset") == set()
    Image.new("L", (6, 6), 11).save(images / "train/cat/10.png")
    assert workplace.planned("--until", "dataset") == {"dataset"}
