"""Maximize a likelihood by its gradients: two length scales, with standard errors and a profile."""

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize

from pipeline.hmatrix import GaussianProcess, H2Matrix, kernels

# Values drawn from a model that is three times as long from west to east as from south to north.
rng = np.random.default_rng(1)
points = rng.random((600, 2))
truth = kernels.Matern(nu=1.5, length_scale=(0.3, 0.1))
A = H2Matrix.from_kernel(points, truth, diagonal=0.02, tolerance=1e-8)
values = A.factorize().sample(rng).numpy()

gp = GaussianProcess(kernels.Matern(nu=1.5, length_scale=(0.2, 0.2)), trend=None).fit(points, values)
for name, (low, value, high) in gp.intervals_.items():
    print(f"{name}: {value:.3g} (95 %: {low:.3g} to {high:.3g})")

# The same by an optimizer of one's own: value and gradient by the logarithms of the parameters.
value, gradient = gp.log_likelihood(gp.theta_, gradient=True)
print(f"log-likelihood {value:.2f}, gradient at the maximum {np.abs(gradient).max():.1g}")
own = minimize(
    lambda theta: [-part for part in gp.log_likelihood(theta, gradient=True)],
    gp.theta_ + 0.05, jac=True, method="L-BFGS-B", options={"maxiter": 5, "gtol": 0.5},
)  # fmt: skip
print(f"L-BFGS: {-own.fun:.2f} after {own.nfev} evaluations; scoring took {gp.n_iter_} steps")

lengths = gp.kernel_.length_scale[0] * np.array([0.7, 1.0, 1.4])
profile = gp.profile("length_scale[0]", lengths)
figure, axes = plt.subplots(figsize=(4.5, 3), layout="constrained")
axes.plot(lengths, profile - gp.log_likelihood_, "o-")
axes.axhline(-1.92, color="gray", linestyle="--")  # the 95 % interval
axes.set(xlabel="length scale, west to east", ylabel="profile log-likelihood (nats)")
figure.savefig("ex08_likelihood.png")

# L-BFGS ends where a Newton step still promises g' C g / 2, C the covariance of the parameters, which is at most
# their number times its diagonal. Either likelihood errs by up to .05 nats.
_, left = gp.log_likelihood(own.x, gradient=True)
errors = np.array([gp.standard_errors_[name] for name in gp.parameter_names_])
promised = len(errors) * np.sum((left * errors) ** 2) / 2
assert abs(-own.fun - gp.log_likelihood_) < promised + 2 * 0.05
assert (np.abs(np.log(gp.kernel_.length_scale) - np.log([0.3, 0.1])) < 4 * errors[:2]).all()
