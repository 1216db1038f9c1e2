"""H2 matrices where the data is: products, factorization and solves as batches on padded buckets, in torch alone.

What is large is done at once for many boxes: those of a level, or of a color of it, sorted into buckets of like sizes.
Which boxes, in which order, into which places of memory is decided on the host, in whole arrays; numbers stay on the
device. Results are the same to the last bit however a device orders its threads, since no two matrices of a bucket
write the same place.

Tensors on the CPU go through the native routines instead, which do the same mathematics box by box.
"""

from pipeline.hmatrix.batched.elimination import eliminate
from pipeline.hmatrix.batched.product import BatchedProduct
from pipeline.hmatrix.batched.steps import BatchedSteps, act

__all__ = ["BatchedProduct", "BatchedSteps", "act", "eliminate"]
