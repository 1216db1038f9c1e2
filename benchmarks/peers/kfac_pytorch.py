"""kfac-pytorch (https://github.com/gpauloski/kfac-pytorch), inverses by its inverse method.

It is in no package index under its own name; where it is missing, its columns say so.
"""

from _frame import optional_import
from _training_steps import LR, Step
from torch import nn

NAME = "kfac-pytorch"


def preconditioner(model: nn.Module, interval: int) -> Step | None:
    """The call that rewrites the gradients of `model`, or None where the package is missing.

    Another package is called `kfac`, too, and is for TensorFlow; it has no such module.
    """
    module = optional_import("kfac.preconditioner")
    if module is None:
        return None
    kfac = module.KFACPreconditioner(
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
