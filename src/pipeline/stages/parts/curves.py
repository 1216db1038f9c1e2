"""Figures of a training while it runs: JSON lines, and TensorBoard's files on request."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.training import EpochRecord, History, JSONLines, to_tensorboard


@contextmanager
def curves(path: Path, history: History, *, tensorboard: bool) -> Iterator[Callable[[EpochRecord], None]]:
    """Write the epochs that a former job has finished, and yield a function that writes each further record.

    TensorBoard's files go to a folder named like the file of JSON lines, without its suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = _writer(path.with_suffix("")) if tensorboard else None
    path.unlink(missing_ok=True)
    with closing(JSONLines(path)) as lines, closing(writer) if writer else nullcontext():

        def write(record: EpochRecord) -> None:
            lines(record.steps, record)
            if writer is not None:
                to_tensorboard(writer, record.steps, record)
                writer.flush()

        for record in history:
            write(record)
        yield write


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
