"""H2 matrices on the device of the data: products, factorization and solves as batches in padded buckets, in torch.

Heavy work is done at once for many boxes: those of a level, or of one color of a level, sorted into buckets of similar
sizes. The host decides which boxes come in which order and into which places of memory; numbers stay on the device.
Results are the same to the last bit however a device orders its threads, since no two matrices of a bucket write to
the same place.

Tensors on the CPU go through the native routines instead, which do the same mathematics box by box.
"""

from pipeline.hmatrix.batched.elimination import eliminate
from pipeline.hmatrix.batched.product import BatchedProduct
from pipeline.hmatrix.batched.steps import BatchedSteps, act

__all__ = ["BatchedProduct", "BatchedSteps", "act", "eliminate"]
