"""Progress bars for the boxes of compressions and factorizations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def boxes(label: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield what tells a bar how many boxes of how many are done; only a terminal sees the bar."""
    # disable=None: quiet where standard error is no terminal.
    with tqdm(desc=label, unit=" boxes", leave=False, disable=None if shown else True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield tell
