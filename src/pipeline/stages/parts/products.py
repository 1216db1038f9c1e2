"""The answer of task product: a matrix times the vectors of a file."""

from argparse import Namespace

from pipeline.artifacts.results.solution import ProductResult, SolutionFacts
from pipeline.runtime.clock import Stopwatch
from pipeline.stages.parts.divided import created, save_rows
from pipeline.stages.parts.solved import Solved, exact_residual
from pipeline.stages.parts.systems import DividedSystem


def multiply(options: Namespace, problem: DividedSystem, given: Solved) -> None:
    """Multiply the vectors of a file, save the product, and compare it with rows of the exact matrix; collective."""
    watch = Stopwatch()
    with watch.part("product"):
        product = problem.operator @ problem.right_hand_side
    residual = exact_residual(given, product)
    norm = float(given.summed(product.abs().square().sum().reshape(1)).sqrt())
    n_columns = 1 if product.ndim == 1 else product.shape[1]
    seconds = watch.seconds["product"]
    with created(options, given.spec, given.communicator, kind="solution") as draft:
        save_rows(draft, "product", product.numpy(), given.communicator)
        if draft is not None:
            result = ProductResult(
                vectors=given.of,
                n_columns=n_columns,
                product_norm=norm,
                relative_error=residual,
                seconds=seconds,
            )
            draft.facts = SolutionFacts(result=result)
    if given.communicator.rank == 0:
        name = options.output.parent.name
        print(
            f"solve {name}: product with {given.of} in {seconds:.2g} s, off by {residual:.1e} in exact rows"
        )
