"""Figures of a training that somebody watches: JSON lines, and TensorBoard's files where they are asked for."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ConfigError
from pipeline.training import EpochRecord, History, JSONLines, to_tensorboard


class Curves:
    """Write the record of every epoch as it comes, and those of the epochs that a former job has done before it.

    TensorBoard's files come to a folder of the same name as that of the JSON lines, without its suffix.
    """

    def __init__(self, path: Path, history: History, *, tensorboard: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = _writer(path.with_suffix("")) if tensorboard else None
        path.unlink(missing_ok=True)
        self._lines = JSONLines(path)
        for record in history:
            self.add(record)

    def add(self, record: EpochRecord) -> None:
        """Write an epoch."""
        self._lines(record.steps, record)
        if self._writer is not None:
            to_tensorboard(self._writer, record.steps, record)
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if self._writer is not None:
            self._writer.close()


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "TensorBoard's files were asked for, and the package tensorboard is not installed; "
            "pip install tensorboard, or leave --tensorboard out"
        ) from None
    for file in folder.glob("events.out.tfevents.*"):
        file.unlink()
    return SummaryWriter(str(folder))
