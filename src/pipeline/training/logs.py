"""Logs of training figures as JSON lines or in TensorBoard, for training loops of your own."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from torch import Tensor


class ScalarWriter(Protocol):
    """What `torch.utils.tensorboard.SummaryWriter` offers."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object: ...


def scalars(figures: Any) -> dict[str, float]:
    """Flatten figures, such as those of `KFAC.statistics` or an `EpochRecord`, to numbers by path.

    Names of nested figures are joined by slashes. Tensors and arrays of one entry are numbers; values that are not
    numbers are left out.
    """
    return dict(_scalars(figures))


def _scalars(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if not isinstance(figures, Mapping):
        figures = {each.name: getattr(figures, each.name) for each in fields(figures)}
    for name, value in figures.items():
        if isinstance(value, Tensor | np.ndarray | np.generic):
            value = value.item() if math.prod(value.shape) == 1 else None
        if isinstance(value, Mapping) or (is_dataclass(value) and not isinstance(value, type)):
            yield from _scalars(value, f"{path}{name}/")
        elif isinstance(value, int | float):
            yield f"{path}{name}", value


def to_tensorboard(writer: ScalarWriter, step: int, figures: Any) -> None:
    """Add figures to TensorBoard.

    writer = torch.utils.tensorboard.SummaryWriter("runs/one")
    train(..., on_epoch=lambda record: to_tensorboard(writer, record.steps, record))
    """
    for path, value in scalars(figures).items():
        writer.add_scalar(path, value, step)


class JSONLines:
    """Append figures to a file, one JSON object per line, each written at once.

    Numbers that are not finite become null, because JSON lacks them.

        with JSONLines("log.jsonl") as log:
            log(step, kfac.statistics())

    Args:
        path: The file; existing lines are kept.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by __exit__ or close

    def __call__(self, step: int, figures: Any) -> None:
        """Write one line: the step, and the figures by path."""
        found = {path: value if math.isfinite(value) else None for path, value in scalars(figures).items()}
        self._file.write(json.dumps({"step": step, **found}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
