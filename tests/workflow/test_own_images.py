"""Images of one's own, from their files to the page of a training."""

import html
import re

import numpy as np
import pytest
import yaml
from idx_files import idx_files
from PIL import Image
from table_files import netcdf

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
    assert "my images: 66 images of 2 classes, 33 of each, to train on, and 14 to test on." in told
    workplace.snakemake(study="config/photos.yaml")
    page = told_on_the_page(workplace.folder / "results/photos")
    assert "100.00 % test accuracy" in page
    assert "images below my images" in page
    assert "2 classes (bars, rows)" in page


def write_npz(folder, arrays):
    np.savez(folder / "images.npz", **arrays, classes=np.array(CLASSES))
    return {"name": "arrays", "path": "images.npz"}


def write_hdf5(folder, arrays):
    axes = {"train": "nhw", "test": "mhw"}
    variables = {name: (axes[name.split("_")[0]][: own.ndim], own) for name, own in arrays.items()}
    # What the library of NetCDF writes is HDF5.
    netcdf(classes=("c", np.array(CLASSES)), **variables)(folder / "images.h5")
    return {"name": "arrays", "path": "images.h5"}


def write_idx(folder, arrays):
    idx_files(folder / "my letters", arrays)
    return {"name": "idx", "directory": "my letters"}


@pytest.mark.parametrize(
    ("write", "classes"), [(write_npz, "bars, rows"), (write_hdf5, "bars, rows"), (write_idx, "0, 1")]
)
def test_images_in_files_of_every_format_become_a_trained_network_and_its_page(workplace, write, classes):
    rng = np.random.default_rng(1)
    arrays = {}
    for part, n in (("train", 66), ("test", 14)):
        labels = np.arange(n) % 2
        arrays[f"{part}_labels"] = labels
        arrays[f"{part}_images"] = np.stack([drawn(rng, label) for label in labels])
    run = {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 16, "epochs": 10}
    study = {
        "study": "images",
        "seeds": [0],
        "dataset": write(workplace.folder, arrays) | {"train_samples": 55, "validation_samples": 11},
        "training": {"runs": {"sgd": run}},
    }
    (workplace.folder / "config/images.yaml").write_text(yaml.safe_dump(study))
    workplace.snakemake(study="config/images.yaml")
    page = told_on_the_page(workplace.folder / "results/images")
    assert "100.00 % test accuracy" in page
    assert f"2 classes ({classes})" in page
    assert study["dataset"].get("path", study["dataset"].get("directory")) in page


def told_on_the_page(results):
    """The text of the page of a study, without marks."""
    page = re.sub(r"<[^>]+>", " ", (results / "report/index.html").read_text(encoding="utf-8"))
    return " ".join(html.unescape(page).split())
