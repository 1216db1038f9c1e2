"""Use each core of an installed wheel once, against NumPy and torch; started by `run` outside the checkout."""

import subprocess
import sys
import time
from pathlib import Path

start = time.perf_counter()
import pipeline.hmatrix  # noqa: E402

seconds = time.perf_counter() - start

import numpy as np  # noqa: E402
import torch  # noqa: E402

from pipeline.hmatrix import H2Matrix, kernels  # noqa: E402
from pipeline.precision import HalfNetwork  # noqa: E402
from pipeline.training import KFAC, KFACSettings  # noqa: E402

assert pipeline.__path__[0].startswith(sys.prefix), pipeline.__path__
assert Path(pipeline.__path__[0], "py.typed").exists()

points = np.random.default_rng(0).random((1000, 2))
A = H2Matrix.from_kernel(points, kernels.Matern(nu=0.5, length_scale=0.1), diagonal=1e-2)
distances = np.linalg.norm(points[:, None] - points, axis=2)
dense = np.exp(-distances / 0.1) + 1e-2 * np.eye(len(points))
x = np.random.default_rng(1).standard_normal(len(points))
assert np.linalg.norm(A @ x - dense @ x) < 1e-6 * np.linalg.norm(dense @ x)
assert abs(A.factorize().logdet() - np.linalg.slogdet(dense)[1]) < 1e-2

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
images, labels = torch.randn(512, 64), torch.randint(10, (512,))
kfac = KFAC(model, KFACSettings(damping=3e-2))
torch.nn.functional.cross_entropy(model(images), labels).backward()
kfac.step(0.1)
kfac.remove()
assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())

model.eval()
network = HalfNetwork.convert(model, images, labels)
with torch.no_grad():
    exact = model(images)
assert (network(images) - exact).norm() < 1e-2 * exact.norm()

refused = subprocess.run(
    [sys.executable, "-m", "pipeline", "schema"], capture_output=True, text=True, check=False
)
assert refused.returncode == 2, refused
assert "parsimony-pipeline[workflow]" in refused.stderr, refused.stderr
print(f"python {sys.version.split()[0]}: the three cores work; import pipeline.hmatrix took {seconds:.2f} s")
