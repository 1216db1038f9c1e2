"""Images of one's own, from their files to the page of a training."""

import html
import re

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = [pytest.mark.workflow, pytest.mark.timeout(900)]
CLASSES = ("bars", "rows")


def drawn(rng, label):
    """A gray image of 9 x 9 pixels: bright lines that stand for one class and lie for the other."""
    lines = np.full((9, 9), 40)
    lines[::2, :] = 210
    return (lines.T if label == 0 else lines).astype(np.uint8) + rng.integers(0, 30, (9, 9), np.uint8)


def test_a_folder_of_images_becomes_a_trained_network_and_its_page_in_two_commands(workplace):
    rng = np.random.default_rng(0)
    for part, n in (("train", 33), ("test", 7)):
        for label, name in enumerate(CLASSES):
            folder = workplace.folder / "my images" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(drawn(rng, label)).save(folder / f"{i}.png")
    told = workplace.pipeline("new", "photos", "--from", "my images")
    assert "my images: 66 images of 2 classes, 33 to 33 of each, to train on, and 14 to test on." in told
    workplace.snakemake(study="config/photos.yaml")
    page = told_on_the_page(workplace.folder / "results/photos")
    assert "100.00 % test accuracy" in page
    assert "images below my images" in page
    assert "2 classes (bars, rows)" in page


def test_arrays_of_images_become_a_trained_network_and_its_page(workplace):
    rng = np.random.default_rng(1)
    arrays = {"classes": np.array(CLASSES)}
    for part, n in (("train", 66), ("test", 14)):
        labels = np.arange(n) % 2
        arrays |= {
            f"{part}_labels": labels,
            f"{part}_images": np.stack([drawn(rng, label) for label in labels]),
        }
    np.savez(workplace.folder / "images.npz", **arrays)
    run = {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 16, "epochs": 10}
    study = {
        "study": "images",
        "seeds": [0],
        "dataset": {
            "name": "arrays", "path": "images.npz", "train_samples": 55, "validation_samples": 11
        },
        "training": {"runs": {"sgd": run}},
    }  # fmt: skip
    (workplace.folder / "config/images.yaml").write_text(yaml.safe_dump(study))
    workplace.snakemake(study="config/images.yaml")
    assert "100.00 % test accuracy" in told_on_the_page(workplace.folder / "results/images")


def told_on_the_page(results):
    """The text of the page of a study, without marks."""
    page = re.sub(r"<[^>]+>", " ", (results / "report/index.html").read_text(encoding="utf-8"))
    return " ".join(html.unescape(page).split())
