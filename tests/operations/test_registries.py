"""All kernels, points and tasks of the registries are open to a study, in every combination that has a meaning."""

import itertools
import struct
from pathlib import Path
from typing import get_args

import numpy as np
import yaml

from pipeline.__main__ import main
from pipeline.config.matrices import POINTS_OF, Task
from pipeline.config.study import schema
from pipeline.data import PLACES, POINTS
from pipeline.hmatrix.kernels import KERNELS, Custom, Imported, Stationary

#: What an entry of a registry needs beside its name.
POINT_OPTIONS = {
    "file": {"path": "stations.csv", "value": "v"},
    "mesh": {"path": "plate.stl"},
    "embeddings": {"run": "only"},
}
#: The library's names of points that studies call otherwise: there, `sphere` and `cube` are surfaces.
RENAMED = {"sphere": "fibonacci_sphere", "cube": "uniform_cube"}
SURFACES = {"sphere", "cube", "mesh"}
FUNCTION = {"name": "custom", "path": "functions_of_a_registry:covariance", "positive_definite": True}


def all_kernels():
    """Every registered kernel as a study writes it; a function of Python is the path of one."""
    for name, kind in KERNELS.items():
        if kind in (Custom, Imported):
            yield FUNCTION
        else:
            yield {"name": name} | ({"length_scale": 0.1} if issubclass(kind, Stationary) else {})


def all_points():
    """Every point set that a study may name, and with them every registered one."""
    names = set(schema()["$defs"]["Matrix"]["properties"]["points"]["discriminator"]["mapping"])
    assert {RENAMED.get(name, name) for name in POINTS} | set(PLACES) <= names
    return [{"name": name} | POINT_OPTIONS.get(name, {}) for name in sorted(names)]


def has_a_meaning(task, points, kernel):
    kind = KERNELS[kernel["name"]]
    covariance = kernel == FUNCTION or (kind.positive_definite and not kind.singular)
    if task in ("solve", "product"):
        return points["name"] not in SURFACES
    if task in ("logdet", "sample"):
        return points["name"] not in SURFACES and covariance
    if task == "kriging":
        return points["name"] in {*PLACES, "file"} and covariance
    if task == "classification":
        return points["name"] == "embeddings" and issubclass(kind, Stationary)
    wanted = {"capacitance": "laplace_single_layer", "scattering": "helmholtz"}[task]
    return points["name"] in SURFACES and kernel["name"] == wanted


def write_files(folder):
    rows = np.random.default_rng(0).random((20, 3))
    np.savetxt(folder / "stations.csv", rows, delimiter=",", header="x,y,v", comments="")
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    triangles = b"".join(
        bytes(12) + corners[list(three)].tobytes() + bytes(2) for three in ((0, 1, 2), (0, 2, 3))
    )
    (folder / "plate.stl").write_bytes(bytes(80) + struct.pack("<I", 2) + triangles)
    (folder / "functions_of_a_registry.py").write_text(
        "import torch\n\ndef covariance(x, y):\n    return torch.exp(-torch.cdist(x, y))\n"
    )


def test_every_registered_kernel_point_set_and_task_is_open_to_a_study(checkout, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(checkout))
    write_files(checkout)
    combined = [
        {"task": task, "points": points, "kernel": kernel}
        for task, points, kernel in itertools.product(get_args(Task), all_points(), list(all_kernels()))
        if has_a_meaning(task, points, kernel)
    ]
    assert {section["task"] for section in combined} == set(POINTS_OF)
    assert {section["points"]["name"] for section in combined} == {points["name"] for points in all_points()}
    assert {section["kernel"]["name"] for section in combined} >= set(KERNELS) - {Imported.name}
    study = {
        "study": "registries",
        "dataset": {"name": "digits", "train_samples": 128, "validation_samples": 32},
        "model": {"name": "mlp", "hidden": [8]},
        "training": {
            "runs": {"only": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch_size": 32, "epochs": 1}}
        },
        "precision": {"runs": ["only"]},
        "matrices": {f"matrix_{i}": section for i, section in enumerate(combined)},
    }
    Path("registries.yaml").write_text(yaml.safe_dump(study))
    assert main(["check", "registries.yaml"]) == 0, capsys.readouterr().err
    assert f"{len(combined)} matrices" in capsys.readouterr().out
