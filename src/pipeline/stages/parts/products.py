"""The answer of the task `product`: a matrix times the vectors of a file."""

import time

from pipeline.artifacts.results.solution import ProductResult
from pipeline.stages.parts.solved import Answer, Solved, exact_residual
from pipeline.stages.parts.systems import DividedSystem


def product(system: DividedSystem, given: Solved) -> Answer:
    """Multiply the vectors of a file, and compare the product with rows of the exact matrix; collective."""
    start = time.perf_counter()
    found = system.operator @ system.right_hand_side
    seconds = time.perf_counter() - start
    error = exact_residual(given, found)
    result = ProductResult(
        vectors=given.of,
        n_columns=1 if found.ndim == 1 else found.shape[1],
        product_norm=given.norm(found),
        relative_error=error,
        seconds=seconds,
    )
    line = f"product with {given.of} in {seconds:.2g} s, off by {error:.1e} in exact rows"
    return Answer(result, (line,), rows={"product": found.numpy()})
