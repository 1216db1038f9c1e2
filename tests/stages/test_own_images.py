"""Images of one's own in files of arrays, from the file to the page of a training."""

import html
import re

import numpy as np
import pytest
from idx_files import idx_files
from striped_images import CLASSES, striped
from table_files import netcdf


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
def test_images_in_files_of_every_format_become_a_trained_network_and_its_page(
    bench, monkeypatch, write, classes
):
    monkeypatch.chdir(bench.folder)
    rng = np.random.default_rng(1)
    arrays = {}
    for part, n in (("train", 66), ("test", 14)):
        labels = np.arange(n) % 2
        arrays[f"{part}_labels"] = labels
        arrays[f"{part}_images"] = np.stack([striped(rng, label) for label in labels])
    run = {"optimizer": {"name": "sgd", "lr": 0.05}, "batch_size": 16, "epochs": 10}
    dataset = write(bench.folder, arrays) | {"train_samples": 55, "validation_samples": 11}
    bench.write_specs(
        {"study": "images", "seeds": [0], "dataset": dataset, "training": {"runs": {"sgd": run}}}
    )
    bench.dataset()
    assert bench.run("train", output="train/sgd/seed0", **bench.train_options("sgd")) == 0
    options = {"spec": bench.folder / "spec/report.json", "benchmarks": bench.folder / "benchmarks"}
    assert bench.run("report", **options) == 0
    page = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bench.page())).split())
    assert "100.00 % test accuracy" in page
    assert f"2 classes ({classes})" in page
    assert dataset.get("path", dataset.get("directory")) in page
