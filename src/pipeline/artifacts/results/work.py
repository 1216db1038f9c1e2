"""What each process of a distributed stage held, did and sent: rows of the tables `processes` and `process_levels`."""

from pydantic import BaseModel


class ProcessWork(BaseModel):
    """One process.

    Attributes:
        process: Its number.
        host: Its node.
        n_bytes: Bytes of blocks, bases and factors.
        peak_memory_bytes: Most memory that it held, the program itself included.
        foretold_bytes: The same as foretold from the number of points, the tolerance and the dimension.
        seconds: Wall-clock seconds of the work.
        waiting_seconds: Part of them in which it waited for others.
        messages, sent_bytes: What it sent to others.
    """

    process: int
    host: str
    n_bytes: int
    peak_memory_bytes: int
    foretold_bytes: int
    seconds: float
    waiting_seconds: float
    messages: int
    sent_bytes: int


class LevelWork(BaseModel):
    """One process on one level.

    Attributes:
        process, level: Which.
        boxes: Boxes of the level that are the process's.
        n_bytes: Bytes of what it holds of the level.
        flops: Operations: of one product with a compressed matrix, or of the factorization.
        seconds: Wall-clock seconds of the level.
        waiting_seconds, messages, sent_bytes: See `ProcessWork`; of what is exchanged for this level alone.
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
