"""Solve with a covariance matrix in two ways, and see how a small nugget magnifies the error of the compression."""

import matplotlib.pyplot as plt
import numpy as np

from pipeline.hmatrix import H2Matrix, kernels

rng = np.random.default_rng(0)
points = rng.random((2000, 2))
kernel = kernels.Matern(nu=1.5, length_scale=0.05)
scaled = np.sqrt(3) * np.linalg.norm(points[:, None] - points, axis=2) / 0.05
covariance = (1 + scaled) * np.exp(-scaled)
b = rng.standard_normal(2000)

nuggets = [1e-1, 1e-2, 1e-3]
residuals: dict[str, list[float]] = {"factorization at 1e-6": [], "conjugate gradients, to 1e-8": []}
for nugget in nuggets:
    exact = covariance + nugget * np.eye(2000)
    A = H2Matrix.from_kernel(points, kernel, diagonal=nugget, tolerance=1e-6)
    solutions = (A.factorize().solve(b), A.solve(b, tolerance=1e-8)[0])
    for found, x in zip(residuals.values(), solutions, strict=True):
        found.append(float(np.linalg.norm(exact @ x - b) / np.linalg.norm(b)))
    print(
        f"nugget {nugget:.0e}: " + ", ".join(f"{name} {found[-1]:.1e}" for name, found in residuals.items())
    )

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
for name, found in residuals.items():
    axes.loglog(nuggets, found, "o-", label=name)
axes.set(xlabel="nugget", ylabel="residual with the exact matrix")
axes.legend()
figure.savefig("ex02_solve.png")

# The residual with the exact matrix grows as the inverse of the nugget does; it stays below tolerance x norm / nugget.
norm = np.linalg.norm(covariance)
assert all(max(r[i] for r in residuals.values()) < 1e-6 * norm / nugget for i, nugget in enumerate(nuggets))
