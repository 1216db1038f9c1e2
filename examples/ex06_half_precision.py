"""Convert a convolutional network to half precision, and see what rounding does to each layer."""

from itertools import pairwise

import matplotlib.pyplot as plt
import torch

from pipeline.precision import HalfNetwork

torch.manual_seed(0)
channels = [1, 16, 32, 32]
layers: list[torch.nn.Module] = []
for before, after in pairwise(channels):
    layers += [torch.nn.Conv2d(before, after, 3, padding=1), torch.nn.ReLU()]
model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 64, 10)).eval()
images, labels = torch.rand(256, 1, 8, 8), torch.randint(10, (256,))
network = HalfNetwork.convert(model, images, labels)

errors = network.layer_errors(images)
for error in errors:
    print(f"layer {error.layer}: relative error {error.relative_error:.1e}, {error.sqnr_db:.0f} dB")

figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.bar([error.layer for error in errors], [error.sqnr_db for error in errors])
axes.set(ylabel="signal to rounding noise, dB")
figure.savefig("ex06_half_precision.png")

with torch.no_grad():
    exact = model.double()(images.double())
difference = float((network(images) - exact).norm() / exact.norm())
print(
    f"relative error of the outputs {difference:.1e}; {network.n_bytes_fp16 / network.n_bytes_fp32:.2f} of the bytes"
)

# FP16 rounds each weight by at most 2^-11; four layers add such errors up.
assert difference < 4 * 2**-11
