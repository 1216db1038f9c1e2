"""The log of a running training, and its figures: JSON lines, and TensorBoard's files on request."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.checkpoints import CheckpointFolder
from pipeline.errors import ConfigError
from pipeline.runtime.clock import ProgressLine
from pipeline.training import EpochRecord, History, JSONLines, State, to_tensorboard


@dataclass
class Reporter:
    """The log and the records of a running training; only the first process prints and writes."""

    label: str
    progress: ProgressLine
    checkpoint: CheckpointFolder
    speaks: bool
    history: History = field(default_factory=list)
    write: Callable[[EpochRecord], None] | None = None

    @contextmanager
    def watched(self, path: Path | None, *, tensorboard: bool) -> Iterator[None]:
        """Write the records of epochs to a file of JSON lines: those of a former job, then others as they come.

        TensorBoard's files go to a folder named like that file, without its suffix.
        """
        if path is None or not self.speaks:
            yield
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = _writer(path.with_suffix("")) if tensorboard else None
        path.unlink(missing_ok=True)
        with closing(JSONLines(path)) as lines, closing(writer) if writer else nullcontext():

            def write(record: EpochRecord) -> None:
                lines(record.steps, record)
                if writer is not None:
                    to_tensorboard(writer, record.steps, record)
                    writer.flush()

            for record in self.history:
                write(record)
            self.write = write
            yield

    def on_start(self, not_preconditioned: Sequence[str]) -> None:
        """Print the parameters whose gradients K-FAC leaves as they are."""
        if self.speaks and not_preconditioned:
            print(f"{self.label}: K-FAC leaves these gradients as they are: {', '.join(not_preconditioned)}")

    def on_step(self, step: int, n_steps: int, loss: float) -> None:
        if self.speaks:
            self.progress.update(step, f"loss {loss:.3f}")

    def on_epoch(self, record: EpochRecord) -> None:
        self.history.append(record)
        if self.write is not None:
            self.write(record)
        if self.speaks:
            print(
                f"{self.label}: epoch {record.epoch:3d}  {record.seconds:7.1f} s  loss {record.train_loss:.4f}  "
                f"accuracy {record.train_accuracy:.4f}  validation loss {record.validation_loss:.4f}  "
                f"accuracy {record.validation_accuracy:.4f}",
                flush=True,
            )

    def on_checkpoint(self, state: State) -> None:
        if self.speaks:
            self.checkpoint.save(state.tensors, state.scalars)


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
