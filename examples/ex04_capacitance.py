"""Compute the capacitance of the unit cube on finer and finer meshes, and compare it with the known value."""

import matplotlib.pyplot as plt
import torch

from pipeline.data.meshes import cube_mesh
from pipeline.hmatrix import H2Matrix, kernels
from pipeline.hmatrix.boundary_elements import SingleLayer, TriangleMesh, solve_capacitance

TRUTH = 0.6606782  # in units of 4 pi eps0: Hwang, Mascagni, Won, J. Comput. Phys. 2010

divisions, errors = [4, 8, 16], []
for n in divisions:
    layer = SingleLayer(TriangleMesh(*map(torch.from_numpy, cube_mesh(n, grading=2.0))))
    K = H2Matrix.from_kernel(layer.points, kernels.LaplaceSingleLayer(), tolerance=1e-6)
    capacitance, _, _ = solve_capacitance(layer.operator(K))  # in units of 4 pi eps0
    errors.append(abs(capacitance / TRUTH - 1))
    print(f"{12 * n * n:5d} triangles: {capacitance:.6f}, relative error {errors[-1]:.1e}")

figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
axes.loglog(divisions, errors, "o-")
axes.set(xlabel="rectangles along an edge", ylabel="relative error of the capacitance")
figure.savefig("ex04_capacitance.png")

assert errors[0] > errors[1] > errors[2]
