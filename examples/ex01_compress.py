"""Compress the covariance matrix of 2,500 points, and compare its error and size with the tolerance asked for."""

import matplotlib.pyplot as plt
import numpy as np

from pipeline.hmatrix import H2Matrix, kernels

rng = np.random.default_rng(0)
points = rng.random((2500, 2))
x = rng.standard_normal(2500)

# The exact product, which only a small example can afford.
distances = np.linalg.norm(points[:, None] - points, axis=2)
exact = np.exp(-distances / 0.1) @ x

tolerances, errors, sizes = [1e-2, 1e-4, 1e-6, 1e-8], [], []
for tolerance in tolerances:
    A = H2Matrix.from_kernel(points, kernels.Matern(nu=0.5, length_scale=0.1), tolerance=tolerance)
    errors.append(np.linalg.norm(A @ x - exact) / np.linalg.norm(exact))
    sizes.append(A.n_bytes / distances.nbytes)
    print(f"tolerance {tolerance:.0e}: error {errors[-1]:.1e}, {100 * sizes[-1]:.0f} % of the dense bytes")

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
left.loglog(tolerances, errors, "o-", label="measured")
left.loglog(tolerances, tolerances, "k:", label="asked for")
left.set(xlabel="tolerance", ylabel="relative error of a product")
left.legend()
right.semilogx(tolerances, sizes, "o-")
right.set(xlabel="tolerance", ylabel="bytes, as a share of the dense matrix's", ylim=(0, None))
figure.savefig("ex01_compress.png")

assert all(error <= tolerance for error, tolerance in zip(errors, tolerances, strict=True))
