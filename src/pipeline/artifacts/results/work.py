"""Memory, work and messages of each process of a distributed stage: rows of `processes` and `process_levels`."""

from typing import Any

from pydantic import BaseModel, model_validator


class ProcessWork(BaseModel):
    """One process.

    Attributes:
        n_bytes: Bytes of blocks, bases and factors.
        peak_memory_bytes: Most memory that the process held, including the program itself.
        predicted_bytes: The same, predicted from the number of points, the tolerance and the dimension.
        waiting_seconds: Part of these seconds in which the process waited for others.
        messages, sent_bytes: Messages to other processes, and their bytes.
    """

    process: int
    host: str
    n_bytes: int
    peak_memory_bytes: int
    predicted_bytes: int
    seconds: float
    waiting_seconds: float
    messages: int
    sent_bytes: int

    @model_validator(mode="before")
    @classmethod
    def _with_its_present_name(cls, row: Any) -> Any:
        """Read the name that the predicted bytes had before version 0.3."""
        if isinstance(row, dict) and "foretold_bytes" in row:
            return row | {"predicted_bytes": row["foretold_bytes"]}
        return row


class LevelWork(BaseModel):
    """One process on one level; it waits, sends and receives for this level alone.

    Bytes are those that the process holds of the level. Operations are those of one product with a compressed matrix,
    or of the factorization.
    """

    process: int
    level: int
    boxes: int
    n_bytes: int
    flops: int
    seconds: float
    waiting_seconds: float = 0.0
    messages: int = 0
    sent_bytes: int = 0
