"""Train a network on handwritten digits with batches of 480, plainly and on two smoothed objectives."""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from pipeline.models import build_model
from pipeline.training import Recipe, Samples, measure_sharpness, train
from pipeline.training.optimizers import SGD
from pipeline.training.smoothing import SAM, Smoothing, WeightNoise

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
training, validation = Samples(images[:960], labels[:960]), Samples(images[960:], labels[960:])
smoothings: dict[str, tuple[Smoothing, ...]] = {
    "plain": (),
    "weight noise": (WeightNoise(std=0.5, full_steps=0),),
    "SAM": (SAM(rho=0.3, full_steps=0),),
}

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
accuracy, rise = {}, {}
for name, smoothing in smoothings.items():
    initial = torch.Generator().manual_seed(0)
    model = build_model("mlp", input_shape=(1, 8, 8), n_classes=10, generator=initial, hidden=(64,))
    recipe = Recipe(SGD(lr=0.3), batch_size=480, epochs=60, smoothing=smoothing)
    history = train(model, recipe, training, validation, seed=0)
    minimum = measure_sharpness(model, training, seed=0)
    accuracy[name], rise[name] = history[-1].validation_accuracy, minimum.perturbation
    print(
        f"{name:12s} training loss {history[-1].train_loss:.3f}, validation accuracy {accuracy[name]:.3f}, "
        f"largest curvature {minimum.largest_eigenvalue:.2f}, loss under noise +{rise[name]:.3f}"
    )
    axes.semilogy([record.validation_loss for record in history], label=name)
axes.set(xlabel="epoch", ylabel="validation loss")
axes.legend()
figure.savefig("ex10_smoothing.png")

# The smoothed minima are flatter, and as good on 837 images that were not seen, to their standard error of a point.
assert max(rise["weight noise"], rise["SAM"]) < rise["plain"] / 2
assert min(accuracy["weight noise"], accuracy["SAM"]) >= accuracy["plain"] - 0.01
