"""Kernels k(x, y) of points, and the registry that builds them by name.

A new kernel is a frozen dataclass with `name` and `block`, and a line in `KERNELS` (see docs/how-to/kernel.md).
"""

from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.hmatrix.kernels.base import KERNELS, Kernel, Product, Scaled, Sum, Swapped, of_class
from pipeline.hmatrix.kernels.covariance import Matern, RationalQuadratic, SquaredExponential, Stationary
from pipeline.hmatrix.kernels.custom import TRIED, Custom, Imported
from pipeline.hmatrix.kernels.distances import distances, squared_distances
from pipeline.hmatrix.kernels.potentials import Helmholtz, LaplaceSingleLayer, Yukawa
from pipeline.hmatrix.kernels.spline import ThinPlate

__all__ = [
    "KERNELS",
    "TRIED",
    "Custom",
    "Helmholtz",
    "Imported",
    "Kernel",
    "LaplaceSingleLayer",
    "Matern",
    "Product",
    "RationalQuadratic",
    "Scaled",
    "SquaredExponential",
    "Stationary",
    "Sum",
    "Swapped",
    "ThinPlate",
    "Yukawa",
    "build",
    "distances",
    "from_dict",
    "require_usable",
    "squared_distances",
]

KERNELS.update(
    (kernel.name, kernel)
    for kernel in (
        Matern,
        SquaredExponential,
        RationalQuadratic,
        LaplaceSingleLayer,
        Helmholtz,
        Yukawa,
        ThinPlate,
        Custom,
        Imported,
    )
)


def build(name: str, **parameters: Any) -> Kernel:
    """Return the registered kernel of this name.

    Raises:
        ConfigError: If there is no such kernel, or it does not take these parameters or values.
    """
    if name not in KERNELS:
        nearest = get_close_matches(name, KERNELS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"kernel: {name!r} is unknown (nearest: {nearest!r}); known are {', '.join(KERNELS)}"
        )
    try:
        return KERNELS[name](**parameters)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"kernel {name}: {error}") from error


def from_dict(description: dict[str, Any]) -> Kernel:
    """Return the kernel that `to_dict` described."""
    parameters = dict(description)
    name = parameters.pop("name", "")
    if "class" in parameters:
        return of_class(parameters["class"], parameters["parameters"])
    if name in ("sum", "product"):
        terms = tuple(from_dict(term) for term in parameters["terms"])
        return Sum(terms) if name == "sum" else Product(terms)
    if name == "swapped":
        return Swapped(from_dict(parameters["kernel"]))
    if name == "scaled":
        factor = parameters["factor"]
        number = complex(factor["real"], factor["imag"]) if isinstance(factor, dict) else factor
        return Scaled(from_dict(parameters["kernel"]), number)
    return build(name, **parameters)


def require_usable(kernel: Kernel, points: NDArray[np.float64]) -> None:
    """Try a kernel on a few points, shape (n, d), before much is computed with it.

    Raises:
        ConfigError: If the kernel does not take points of this dimension, or a user's function does not give a block
            of numbers.
    """
    if isinstance(kernel, Imported):
        kernel.require_usable(torch.from_numpy(points))
        return
    try:
        kernel(points[:1], points[:1])
    except ConfigError:  # raised by a user's function in a sum; its text says what to do
        raise
    except ValueError as error:
        raise ConfigError(f"kernel: {error}; take another kernel, or other points.coordinates") from None
