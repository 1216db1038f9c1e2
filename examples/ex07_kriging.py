"""Read places and values from a CSV, fit a covariance to all of them, and map the mean and its standard deviation."""

import csv

import matplotlib.pyplot as plt
import numpy as np

from pipeline.hmatrix import GaussianProcess, kernels

# A file for the example to read: 1,500 soundings of a hilly ground, each with an error of 0.1 m.
rng = np.random.default_rng(0)
places = rng.random((1500, 2)) * [8.0, 5.0]
depths = (
    np.sin(2 * places[:, 0]) * np.cos(places[:, 1]) + 0.3 * places[:, 0] + 0.1 * rng.standard_normal(1500)
)
with open("soundings.csv", "w", newline="") as file:
    csv.writer(file).writerows([("east", "north", "depth"), *np.column_stack([places, depths])])

table = np.genfromtxt("soundings.csv", delimiter=",", names=True)
X, y = np.column_stack([table["east"], table["north"]]), table["depth"]
known = rng.random(len(X)) < 0.8

gp = GaussianProcess(kernels.Matern(nu=1.5, length_scale=1.0), trend="linear").fit(X[known], y[known])
print(gp)
for name, (low, value, high) in gp.intervals_.items():
    print(f"{name}: {value:.3g} (95 %: {low:.3g} to {high:.3g})")
scores = gp.scores(X[~known], y[~known])
print("held out:", {name: round(score, 3) for name, score in scores.items()})

east, north = np.meshgrid(np.linspace(0, 8, 161), np.linspace(0, 5, 101))
mean, std = gp.predict(np.column_stack([east.ravel(), north.ravel()]), return_std=True)

figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for axes, values, title in zip(panels, (mean, std), ("mean", "standard deviation"), strict=True):
    drawn = axes.pcolormesh(east, north, values.reshape(east.shape))
    axes.set(aspect="equal", title=f"depth, {title}")
    figure.colorbar(drawn, ax=axes)
panels[1].plot(*X[known].T, "k.", markersize=1)
figure.savefig("ex07_kriging.png")

# The error of a sounding is 0.1 m: predictions of new soundings cannot be better, and should be little worse.
assert 0.09 < scores["rmse"] < 0.12
assert 0.9 < scores["coverage_95"] < 0.99
