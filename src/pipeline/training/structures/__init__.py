"""How one layer's Fisher matrix is approximated, one file for each structure; `structure` says what they share."""

from pipeline.training.structures.kronecker_product import Convolution, KroneckerProduct, Transposed
from pipeline.training.structures.look_up import LookUp, TiedLookUp
from pipeline.training.structures.structure import Structure, in_working_type, spread, working_type
from pipeline.training.structures.unit_wise import BatchNorm, InstanceNorm, UnitWise

__all__ = [
    "BatchNorm",
    "Convolution",
    "InstanceNorm",
    "KroneckerProduct",
    "LookUp",
    "Structure",
    "TiedLookUp",
    "Transposed",
    "UnitWise",
    "in_working_type",
    "spread",
    "working_type",
]
