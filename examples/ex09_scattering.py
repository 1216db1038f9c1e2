"""Scatter a plane wave at a sound-soft sphere, at a resonance of its inside, and compare with Mie's series."""

import math

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import eval_legendre, spherical_jn, spherical_yn

from pipeline.data.meshes import sphere_mesh
from pipeline.hmatrix.boundary_elements import PlaneWave, TriangleMesh, diagnose, solve_scattering

k = math.pi  # in units of the sphere's radius: Dirichlet's problem inside has no unique solution here
angles = np.linspace(0, np.pi, 61)
directions = np.stack([np.sin(angles), 0 * angles, np.cos(angles)], axis=1)

orders = np.arange(20)
j = spherical_jn(orders, k)
h = j + 1j * spherical_yn(orders, k)
series = (2 * orders + 1) * j / h * eval_legendre(orders, np.cos(angles)[:, None])
exact = 1j / k * series.sum(axis=1)

errors = []
for refinements in (1, 2):
    mesh = TriangleMesh(*sphere_mesh(refinements))
    diagnose(mesh).require_usable()
    wave = solve_scattering(mesh, PlaneWave(k, (0.0, 0.0, 1.0)), k, condition="soft")
    far = wave.far_field(directions)
    errors.append(float(np.abs(far - exact).max() / np.abs(exact).max()))
    print(f"{len(mesh):5d} triangles: {wave.scattered.info.iterations} iterations, error {errors[-1]:.1e}")

grid = np.linspace(-2.5, 2.5, 61)
x, z = np.meshgrid(grid, grid, indexing="ij")
places = np.stack([x, 0 * x, z], axis=-1).reshape(-1, 3)
outside = np.abs(np.linalg.norm(places, axis=1) - 1) > 0.1
total = np.full(len(places), np.nan, complex)
total[outside] = wave.total(places[outside])

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
axes[0].plot(np.degrees(angles), np.abs(exact), label="Mie's series")
axes[0].plot(np.degrees(angles), np.abs(far), "--", label="boundary elements")
axes[0].set(xlabel="angle to the wave (degrees)", ylabel="far field |f|")
axes[0].legend()
shown = axes[1].pcolormesh(z, x, np.abs(total).reshape(x.shape), shading="auto")
axes[1].set(xlabel="z", ylabel="x", aspect="equal", title="total field")
figure.colorbar(shown)
figure.savefig("ex09_scattering.png")

assert errors[1] < errors[0] / 3  # errors fall as the square of the triangles' size
