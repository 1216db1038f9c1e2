"""kfac-pytorch (https://github.com/gpauloski/kfac-pytorch), inverses by its inverse method.

No package index has it under its own name: `pip install --no-deps PATH` installs a checkout of its repository. Where it
is missing, its columns say so.
"""

from importlib import import_module

from _frame import optional_import
from _training_steps import LR, Step
from torch import nn

NAME = "kfac-pytorch"


def is_installed() -> bool:
    """Whether it is installed; another package called `kfac`, for TensorFlow, lacks this module."""
    return optional_import("kfac.preconditioner") is not None


def preconditioner(model: nn.Module, interval: int) -> Step:
    """Return the function that rewrites the gradients of `model`."""
    kfac = import_module("kfac.preconditioner").KFACPreconditioner(
        model,
        factor_update_steps=interval,
        inv_update_steps=interval,
        damping=3e-2,
        factor_decay=0.5,
        kl_clip=1e-3,
        lr=LR,
        compute_method="inverse",
    )
    step: Step = kfac.step
    return step
