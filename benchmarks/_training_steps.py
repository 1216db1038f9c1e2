"""Steps of training for benchmarks: only the small network of the default study, on random images.

As a script, started by mpiexec, it prints the total images per second of all processes:

    mpiexec -n 2 python benchmarks/_training_steps.py kfac 1024 10
"""

import sys
import time
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional

from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.runtime.communicator import Communicator, Serial
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.mpi import MpiCommunicator
from pipeline.runtime.node_group import process_group
from pipeline.training.kfac import KFAC
from pipeline.training.objective import Objective
from pipeline.training.optimizers import SGD
from pipeline.training.sampling import Batches, Samples
from pipeline.training.settings import KFACSettings

N_IMAGES = 8192
N_CLASSES = 10
LR = 0.05
SEED = 0

Step = Callable[[], object]


@cache
def samples() -> Samples:
    """Images of 28 x 28 and random labels: the cost of a step depends on neither."""
    rng = torch.Generator().manual_seed(SEED)
    images = torch.randn(N_IMAGES, 1, 28, 28, generator=rng)
    return Samples(images, torch.randint(N_CLASSES, (N_IMAGES,), generator=rng))


def network() -> Classifier:
    """The convolutional network of `config/default.yaml`."""
    rng = torch.Generator().manual_seed(SEED)
    return build_model("cnn", input_shape=(1, 28, 28), n_classes=N_CLASSES, generator=rng)


def loop_step(
    model: Classifier,
    settings: KFACSettings | None,
    batch_size: int,
    communicator: Communicator | None = None,
) -> Step:
    """Return a step as `train` takes it: in micro-batches, with sums in double precision.

    Args:
        settings: Settings of K-FAC; None for SGD.
        batch_size: Batch size over all processes; divides `N_IMAGES`.
    """
    communicator = communicator or Serial()
    kfac = None
    if settings is not None:
        kfac = KFAC(model, settings, communicator=communicator, loss="sum", sums_gradients=True, seed=SEED)
    optimizer = SGD(lr=LR).build(model)
    objective = Objective(
        model,
        samples(),
        Batches(N_IMAGES, N_IMAGES // batch_size, SEED),
        n_classes=N_CLASSES,
        smoothing=(),
        micro_batch=256,
        seed=SEED,
        communicator=communicator,
        kfac=kfac,
    )
    number = 0

    def step() -> None:
        nonlocal number
        objective.backward(number, done=0.0)
        if kfac:
            kfac.step(LR)
        optimizer.step()
        number += 1

    return step


def plain_step(model: Classifier, precondition: Step | None, batch: Samples) -> Step:
    """Return a step of a plain torch loop: the whole batch in one pass.

    Args:
        precondition: The function to call between the backward pass and the optimizer's step.
    """
    optimizer = SGD(lr=LR).build(model)
    images, labels = batch.images, batch.labels

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        if precondition:
            precondition()
        optimizer.step()

    return step


def main(kind: str, n_images: int, n_steps: int) -> None:
    """Print images per second of a number of processes that each take `n_images` in every step."""
    torch.set_num_threads(1)
    keep_freed_memory()
    with process_group(torch.device("cpu"), MpiCommunicator()) as communicator:
        batch_size = n_images * communicator.size
        step = loop_step(network(), KFACSettings() if kind == "kfac" else None, batch_size, communicator)
        for _ in range(n_steps):
            step()
        communicator.barrier()
        start = time.perf_counter()
        for _ in range(n_steps):
            step()
        communicator.barrier()
        if communicator.rank == 0:
            print(n_steps * batch_size / (time.perf_counter() - start))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
