"""Kernels in files: what is written of them, and what is made of it again."""

import json
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from kernel_cases import KERNEL_CASES

from pipeline.errors import ConfigError
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.kernels import Helmholtz, Kernel, Matern, Yukawa


@pytest.fixture
def points():
    return torch.rand(23, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted(set(KERNEL_CASES) - {"custom", "imported"}))
def test_stored_kernels_come_back_equal(name):
    assert kernels.from_dict(json.loads(json.dumps(KERNEL_CASES[name].to_dict()))) == KERNEL_CASES[name]


def test_stored_combinations_come_back_equal():
    kernel = 2.0 * Matern(nu=1.5) * kernels.SquaredExponential() + (1 + 1j) * Helmholtz() + Yukawa()
    assert kernels.from_dict(json.loads(json.dumps(kernel.to_dict()))) == kernel


@dataclass(frozen=True)
class Cosine(Kernel):
    """A kernel that is registered nowhere."""

    name: ClassVar[str] = "matern"  # as one of the library is called
    positive_definite: ClassVar[bool] = True
    frequencies: tuple[float, ...]
    shift: complex = 1j

    def block(self, targets, sources):
        lag = targets[..., :, None, 0] - sources[..., None, :, 0]
        return sum(torch.cos(frequency * lag) for frequency in self.frequencies)


class Stated(Kernel):
    """What it holds is no field."""

    def __init__(self, scale):
        object.__setattr__(self, "scale", scale)


@dataclass(frozen=True)
class Slanted(Kernel):
    """A kernel that tells its arguments apart."""

    symmetric: ClassVar[bool] = False

    def block(self, targets, sources):
        return torch.exp(0.3 * (targets[..., :, None, 0] - sources[..., None, :, 0]))


@dataclass(frozen=True)
class Halved(Matern):
    """A kernel of the library, changed."""

    def block(self, targets, sources):
        return super().block(targets, sources) / 2


@pytest.mark.parametrize(
    "kernel",
    [
        Cosine((1.0, np.float64(2.5))),
        Halved(nu=1.5, length_scale=(0.1, 0.2)),
        2.0 * Cosine((3.0,)) + Matern(),
    ],
)
def test_a_kernel_of_one_s_own_that_is_a_dataclass_comes_back_equal(kernel):
    assert kernels.from_dict(json.loads(json.dumps(kernel.to_dict()))) == kernel


def test_a_matrix_of_a_kernel_of_one_s_own_is_loaded_with_it(points, tmp_path):
    kernel = Cosine((1.0, 2.0))
    A = H2Matrix.from_kernel(points.numpy(), kernel, diagonal=1.0)
    A.save(tmp_path / "A")
    again = H2Matrix.load(tmp_path / "A")
    x = np.ones(len(points))
    dense = kernel(points, points).numpy() + np.eye(len(points))
    np.testing.assert_allclose(again @ x, dense @ x, rtol=1e-6)


def test_the_transpose_of_a_matrix_is_loaded_with_its_kernel_swapped(points, tmp_path):
    kernel = Slanted()
    H2Matrix.from_kernel(points.numpy(), kernel, diagonal=1.0).T.save(tmp_path / "A")
    again = H2Matrix.load(tmp_path / "A")
    np.testing.assert_allclose(
        again.kernel(points, points).numpy(), kernel(points, points).numpy().T, rtol=1e-14
    )


def test_a_kernel_that_could_not_be_made_again_is_not_stored(points, tmp_path):
    @dataclass(frozen=True)
    class Local(Kernel):
        pass

    for kernel, words in (
        (Local(), "written in a function, where other programs do not find it; move it into a module"),
        (Stated(2.0), "do not make the same kernel again; wanted a frozen dataclass"),
        (Cosine(np.array([1.0, 2.0])), "do not make the same kernel again"),
    ):
        with pytest.raises(ConfigError, match=words):
            kernel.to_dict()


def test_a_file_that_names_a_class_makes_nothing_run(tmp_path, monkeypatch):
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="not imported; import hostile before you load this"):
        kernels.from_dict({"name": "", "class": "hostile:Kernel", "parameters": {}})
    written = {"path": str(tmp_path / "written"), "flags": os.O_CREAT | os.O_WRONLY}
    for path in ("os:open", "builtins:float", "pipeline.hmatrix.kernels:build", "os:nothing.here"):
        with pytest.raises(ConfigError, match=f"{path} is not a class of kernels"):
            kernels.from_dict({"name": "", "class": path, "parameters": written})
    assert not (tmp_path / "written").exists()


def test_a_custom_kernel_cannot_be_stored():
    with pytest.raises(ConfigError, match="cannot be stored"):
        KERNEL_CASES["custom"].to_dict()


def test_parameters_may_be_numpys_and_are_stored_as_plain_numbers():
    kernel = Matern(length_scale=np.array([1, 2]), variance=np.float32(0.5))
    assert kernel.length_scale == (1, 2)
    assert kernels.from_dict(json.loads(json.dumps((np.float32(2.0) * kernel).to_dict()))) == 2.0 * kernel
