"""Any network of another library or of a user, by import path."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.classifier import Classifier

MISSING_OPERATORS = ("nms", "qnms")  # operators whose shapes torchvision registers while it is imported


def imported(
    *,
    input_shape: tuple[int, int, int],
    n_classes: int,
    generator: torch.Generator,
    path: str,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """Call `path` and cut what it returns into a body and its last linear layer.

    The function or class is called as those of torchvision are, with `num_classes` and the options. It draws its own
    initial weights, from a seed that `generator` gives; the global random state is restored.

    Args:
        input_shape: Channels, height, width; one pass tests whether the network takes such images.
        n_classes: Number of scores that the network must return.
        generator: Source of the seed; its device is the network's.
        path: "package.module:name".
        options: Further keyword arguments.

    Raises:
        ConfigError: If the path cannot be imported, the call fails, or it does not return a network whose last layer
            is linear with `n_classes` outputs.
    """
    where = f"model.path {path!r}"
    module_name, _, name = path.partition(":")
    try:
        build: Callable[..., Any] = getattr(import_library(module_name), name)
    except (ImportError, AttributeError, ValueError, RuntimeError, SystemExit) as error:
        raise ConfigError(f"{where}: wanted package.module:name, found {error}") from None
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]), torch.device(generator.device):
        torch.manual_seed(seed)
        try:
            model = build(num_classes=n_classes, **(options or {}))
            scores = model.eval()(torch.zeros(2, *input_shape))
        except Exception as error:
            raise ConfigError(
                f"{where}: called with num_classes={n_classes} and given images of shape {input_shape} it says "
                f"{' '.join(str(error).split())[:200]!r}; change model.options"
            ) from error
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    last = model.get_submodule(linear[-1]) if linear else None
    if not isinstance(last, nn.Linear) or scores.shape != (2, n_classes) or last.out_features != n_classes:
        raise ConfigError(
            f"{where}: wanted a network whose last layer is linear with {n_classes} outputs, found outputs of shape "
            f"{tuple(scores.shape)} and {last}; wrap it in a function that adds such a layer"
        )
    parent, _, child = linear[-1].rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return Classifier(model, last)


def import_library(name: str) -> ModuleType:
    """Import a module; torchvision can be imported even if its compiled operators do not fit the build of torch.

    The published torchvision links the CUDA build of torch. With a CPU build its operators are missing, and its import
    fails where it registers the shapes of those for detection. Networks for classification do not need these operators,
    so their signatures are declared here; a call then raises an error that there is no implementation.
    """
    try:
        return importlib.import_module(name)
    except RuntimeError as failure:
        if "operator torchvision::" not in str(failure):
            raise
        for partial in [key for key in sys.modules if key.partition(".")[0] == "torchvision"]:
            del sys.modules[partial]
        for operator in MISSING_OPERATORS:
            if not hasattr(torch.ops.torchvision, operator):
                signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{operator}", signature)
        return importlib.import_module(name)
