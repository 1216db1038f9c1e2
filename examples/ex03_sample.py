"""Draw a random field on 20,000 scattered points, and check its variance."""

import matplotlib.pyplot as plt
import numpy as np

from pipeline.hmatrix import H2Matrix, kernels

rng = np.random.default_rng(0)
points = rng.random((20_000, 2))
kernel = kernels.Matern(nu=1.5, length_scale=0.05)
A = H2Matrix.from_kernel(points, kernel, diagonal=1e-2, tolerance=1e-5)
fields = A.factorize().sample(rng, 50)  # shape (points, draws)
print(A, f"variance {float(fields.var()):.3f}, expected 1.01")

figure, axes = plt.subplots(figsize=(4.5, 3.6), layout="constrained")
drawn = axes.scatter(*points.T, c=fields[:, 0], s=1, cmap="RdBu_r")
axes.set(aspect="equal", xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes)
figure.savefig("ex03_sample.png")

# A field of about 400 correlation areas, drawn 50 times, gives the variance to a few percent.
assert abs(float(fields.var()) - 1.01) < 0.05
