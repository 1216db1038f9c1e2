"""Progress bars for the boxes of compressions and factorizations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def boxes(label: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that tells a bar how many boxes of how many are done; the bar is shown only in a terminal."""
    # disable=None hides the bar where standard error is not a terminal.
    with tqdm(desc=label, unit=" boxes", leave=False, disable=None if shown else True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        yield tell
