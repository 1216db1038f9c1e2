"""H2 matrices of several processes: divided among them, or shared by them in products."""

from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.distributed.shared import Divisible, Solver, distributed_product, distributed_solve

__all__ = ["DistributedH2Matrix", "Divisible", "Solver", "distributed_product", "distributed_solve"]
