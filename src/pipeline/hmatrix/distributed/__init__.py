"""H2 matrices that are divided among processes."""

from pipeline.hmatrix.distributed.factor import DistributedFactorization
from pipeline.hmatrix.distributed.layers import DistributedLayerOperators
from pipeline.hmatrix.distributed.low_rank import DistributedLowRank, LowRankFactorization
from pipeline.hmatrix.distributed.matrix import DistributedH2Matrix
from pipeline.hmatrix.distributed.scattering import DistributedScattering, solve_distributed_scattering
from pipeline.hmatrix.distributed.single_layer import DistributedSingleLayer, OwnTriangles

__all__ = [
    "DistributedFactorization",
    "DistributedH2Matrix",
    "DistributedLayerOperators",
    "DistributedLowRank",
    "DistributedScattering",
    "DistributedSingleLayer",
    "LowRankFactorization",
    "OwnTriangles",
    "solve_distributed_scattering",
]
