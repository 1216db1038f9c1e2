"""The cost of K-FAC: CPU time of a step beside SGD and kfac-pytorch, bytes between processes, images per second.

The network is the default study's: 122,922 weights on images of 28 x 28, with one thread per process and the settings
of `config/default.yaml`. Factors come from a quarter of each batch, intervals (k, k) mean factors and inverses every k
steps, and times are means over whole intervals. Rows name three choices. Factors are `cut` into blocks of at most 512
rows, as by default and in the study of large batches, or `whole`. They come from a part of the samples or from `all
samples`, as kfac-pytorch's whole ones do. The loop is a plain one of torch, with the whole batch in one pass, or that
of `train`, in micro-batches. Goals are set only for the default, except those beside kfac-pytorch, which hold for all
rows. All sides keep freed memory for the next step, as the stage `train` does. One case compiles whole steps with
`torch.compile`, another counts the parameters of torchvision's networks that are preconditioned. Where torch finds a
GPU, ResNet-18 trains there too, in a plain loop. The accuracy for this cost is measured by `benchmarks/large_batch.py`;
its recorded goals are printed at the end.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import _training_steps
import torch
from _architectures import ARCHITECTURES, coverage
from _frame import RESULTS, Benchmark, Goal, Quantity, Row, Run
from _training_steps import LR, N_CLASSES, SEED, Step, loop_step, network, plain_step, samples
from peers import kfac_pytorch
from threadpoolctl import threadpool_limits

from pipeline.models import build_model
from pipeline.runtime.communicator import Communicator, Counting, run_in_threads
from pipeline.runtime.memory import keep_freed_memory
from pipeline.training.kfac import KFAC
from pipeline.training.layers import structure_of
from pipeline.training.sampling import Samples
from pipeline.training.settings import Communication, KFACSettings

BATCH = 1024
WHOLE = 10  # steps: a multiple of every interval below
COST = Quantity("CPU time of a step, times SGD's", "")
STEP = Quantity("CPU time of a step", "ms")
WALL_COST = Quantity("wall time of a step, times SGD's", "")
WALL_STEP = Quantity("wall time of a step", "ms")
BYTES = Quantity("messages of a step", "MB")
SHARE = Quantity("share of the peer's bytes", "")
COMPILING = Quantity("wall time of the first ten steps", "s")
COVERED = Quantity("parameters preconditioned", "%", smaller_is_better=False)
RATE = Quantity("images per second", "1/s", smaller_is_better=False)

bench = Benchmark("training", __doc__, packages=("torch", "mpi4py"))


def settings(interval: int, *, block_size: int = 512, sample_fraction: float = 0.25) -> KFACSettings:
    """Settings of the default study, with other intervals and, if asked for, uncut factors from more samples."""
    return KFACSettings(
        factor_interval=interval,
        inverse_interval=interval,
        block_size=block_size,
        sample_fraction=sample_fraction,
    )


def cpu_seconds(steps: Sequence[Step], *, repeats: int) -> list[list[float]]:
    """CPU seconds of each kind of step, taken in turns: `repeats` means over `WHOLE` steps."""
    samples: list[list[float]] = [[] for _ in steps]
    with threadpool_limits(1):
        for repeat in range(repeats + 1):
            for step, taken in zip(steps, samples, strict=True):
                start = time.process_time()
                for _ in range(WHOLE):
                    step()
                if repeat:  # the first turn warms up
                    taken.append((time.process_time() - start) / WHOLE)
    return samples


def times(step: Sequence[float], sgd: Sequence[float]) -> float:
    """The median, over turns, of the ratio between one kind of step and SGD."""
    return statistics.median(a / b for a, b in zip(step, sgd, strict=True))


def plain(precondition_of: Callable[[torch.nn.Module], Step]) -> Step:
    """Return a step of a plain loop with a preconditioner."""
    model = network()
    return plain_step(model, precondition_of(model), samples()[:BATCH])


def ours(model: torch.nn.Module, *, chosen: KFACSettings) -> Step:
    """Return the function that rewrites the gradients of `model`."""
    return partial(KFAC(model, chosen).step, LR)


def cost(run: Run, interval: int, *, goal: float, over_peer: float) -> None:
    """Compare K-FAC with SGD, in a plain loop and in that of `train`, and with the peer in a plain loop."""
    cut, whole = settings(interval), settings(interval, block_size=0)
    everything = settings(interval, block_size=0, sample_fraction=1.0)
    steps: dict[str, Step] = {
        "plain, SGD": plain_step(network(), None, samples()[:BATCH]),
        "plain, cut": plain(partial(ours, chosen=cut)),
        "plain, whole": plain(partial(ours, chosen=whole)),
        "plain, whole, all samples": plain(partial(ours, chosen=everything)),
        "train, SGD": loop_step(network(), None, BATCH),
        "train, cut": loop_step(network(), cut, BATCH),
        "train, whole": loop_step(network(), whole, BATCH),
    }
    if kfac_pytorch.is_installed():
        steps[kfac_pytorch.NAME] = plain(partial(kfac_pytorch.preconditioner, interval=interval))
    seconds = cpu_seconds(list(steps.values()), repeats=1 if run.quick else 5)
    taken = dict(zip(steps, seconds, strict=True))
    peer = taken.pop(kfac_pytorch.NAME, None)
    sgd = {loop: taken.pop(f"{loop}, SGD") for loop in ("plain", "train")}
    for part, figures in taken.items():
        reference = sgd[part.split(",")[0]]
        milliseconds = [1e3 * statistics.median(each) for each in (figures, reference)]
        run.record(STEP, ours=milliseconds[0], peer=milliseconds[1], peer_name="SGD", part=part)
        bound = Goal.ours(goal) if part.endswith("cut") else None
        run.record(COST, ours=times(figures, reference), goal=bound, part=part)
    for part in (name for name in taken if name.startswith("plain")):
        run.record(
            COST,
            ours=times(taken[part], sgd["plain"]),
            peer=None if peer is None else times(peer, sgd["plain"]),
            peer_name=kfac_pytorch.NAME,
            goal=Goal.ratio(over_peer),
            part=part,
        )


@bench.case("intervals (1,1), batch 1024")
def every_step(run: Run) -> None:
    """Factors and inverses in every step."""
    cost(run, 1, goal=1.55, over_peer=2.0)


@bench.case("intervals (5,5), batch 1024")
def every_fifth(run: Run) -> None:
    """The default intervals."""
    cost(run, 5, goal=1.12, over_peer=1.0)


@bench.case("intervals (10,10), batch 1024")
def every_tenth(run: Run) -> None:
    """Mostly the cost of the natural gradient remains."""
    cost(run, 10, goal=1.06, over_peer=1.0)


@bench.case("whole steps compiled, batch 1024")
def compiled(run: Run) -> None:
    """A plain loop's step with `torch.compile` compared with the same step without it, at intervals (5,5)."""
    kinds = {"SGD": None, "K-FAC": partial(ours, chosen=settings(5))}
    for part, precondition_of in kinds.items():
        batch = samples()[:BATCH]
        models = [network() for _ in range(2)]
        as_is, whole = (
            plain_step(model, precondition_of and precondition_of(model), batch) for model in models
        )
        whole = torch.compile(whole)
        firsts = []
        for step in (whole, as_is):
            start = time.perf_counter()
            for _ in range(WHOLE):
                step()
            firsts.append(time.perf_counter() - start)
        run.record(COMPILING, ours=firsts[0], peer=firsts[1], peer_name="not compiled", part=part)
        seconds = cpu_seconds([whole, as_is], repeats=1 if run.quick else 5)
        milliseconds = [1e3 * statistics.median(each) for each in seconds]
        run.record(STEP, ours=milliseconds[0], peer=milliseconds[1], peer_name="not compiled", part=part)


@bench.case("torchvision's networks")
def torchvision(run: Run) -> None:
    """The share of the parameters that is preconditioned, and the kinds of the rest."""
    for name in ARCHITECTURES:
        found = coverage(name)
        run.record(COVERED, ours=100 * found.share, goal=Goal.ours(95), part=name)
        for kind, n in found.left.items():
            print(f"    {name}: {n:,} of {found.n_parameters:,} keep their gradients: {kind}")


def step_bytes(chosen: KFACSettings | None, n_processes: int) -> float:
    """Bytes that a process passes to collective operations in a step, gradients included: a mean over `WHOLE` steps."""
    models = [network() for _ in range(n_processes)]

    def work(communicator: Communicator) -> int:
        counting = Counting(communicator)
        step = loop_step(models[communicator.rank], chosen, BATCH, counting)
        for _ in range(WHOLE):
            step()
        return counting.n_bytes.total()

    with threadpool_limits(1):
        return max(run_in_threads(n_processes, work)) / WHOLE


def replicated_bytes(n_processes: int) -> float:
    """The same for the simplest K-FAC: all processes sum whole float32 factors in every step and invert them all."""
    structures = [structure_of(module, block_size=0) for module in network().modules()]
    shapes = [shape for structure in structures if structure for shape in structure.shapes.values()]
    return step_bytes(None, n_processes) + 4 * sum(torch.Size(shape).numel() for shape in shapes)


@bench.case("messages, 2 processes, intervals (1,1)")
def messages(run: Run) -> None:
    """Packed triangles to the process that inverts them, compared with whole matrices to all; then the default's bytes.

    Every row includes the same bytes for the gradients, which travel in double precision.
    """
    peer = replicated_bytes(2)
    name = "whole float32 factors to all"
    goals: dict[Communication, float | None] = {"float64": None, "float32": 0.65, "bfloat16": 0.42}
    sent: dict[str, tuple[KFACSettings, float | None]] = {}
    for communication, goal in goals.items():
        for cut, block_size in (("cut", 512), ("whole", 0)):
            chosen = settings(1, block_size=block_size)
            chosen = replace(chosen, communication=communication, placement="memory")
            sent[f"{communication}, {cut}"] = chosen, goal if cut == "cut" else None
    sent["the default's"] = settings(1), 0.65
    for part, (chosen, goal) in sent.items():
        counted = step_bytes(chosen, 2)
        run.record(BYTES, ours=counted / 1e6, peer=peer / 1e6, peer_name=name, part=part)
        run.record(SHARE, ours=counted / peer, goal=Goal.ours(goal) if goal else None, part=part)


def images_per_second(kind: str, n_processes: int, n_images: int) -> float:
    """Total images per second of `n_processes` that train together, each with `n_images` per step and one thread."""
    command = [str(Path(sys.executable).with_name("mpiexec")), "-n", str(n_processes), sys.executable]
    arguments = [_training_steps.__file__, kind, str(n_images), str(3 * WHOLE)]
    done = subprocess.run(command + arguments, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def images_per_second_apart(kind: str, n_images: int) -> float:
    """Total images per second of two processes at once that know nothing of each other: what the machine allows."""
    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(lambda _: images_per_second(kind, 1, n_images), range(2)))


@bench.case("2 processes, 1024 images each")
def two_processes(run: Run) -> None:
    """Wall time of one process, of two together and of two apart, in turns; K-FAC at the default intervals (5,5)."""
    n_images = 64 if run.quick else BATCH
    for kind, part in (("kfac", "K-FAC"), ("sgd", "SGD")):
        turns = [
            [
                *(images_per_second(kind, n, n_images) for n in (1, 2)),
                images_per_second_apart(kind, n_images),
            ]
            for _ in range(1 if run.quick else 5)
        ]
        one, two, apart = (statistics.median(rates) for rates in zip(*turns, strict=True))
        run.record(RATE, ours=two, peer=one, peer_name="1 process", goal=Goal.ratio(1.8), part=part)
        run.record(RATE, ours=apart, peer=one, peer_name="1 process", part=f"{part}, two that share nothing")


def resnet_steps(device: torch.device, batch_size: int) -> tuple[Step, Step]:
    """Steps of ResNet-18 on images of 32 x 32 in a plain loop, with K-FAC at intervals (10,100) and with SGD."""
    rng = torch.Generator().manual_seed(SEED)
    images = torch.randn(batch_size, 3, 32, 32, generator=rng)
    labels = torch.randint(N_CLASSES, (batch_size,), generator=rng)
    batch = Samples(images.to(device), labels.to(device))
    models = [
        build_model("resnet", input_shape=(3, 32, 32), n_classes=N_CLASSES, generator=rng).to(device)
        for _ in range(2)
    ]
    chosen = replace(settings(10), inverse_interval=100)
    return plain_step(models[0], ours(models[0], chosen=chosen), batch), plain_step(models[1], None, batch)


def gpu_seconds(step: Step, n_steps: int) -> float:
    """Wall seconds of a step on the GPU, as the mean over several steps."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n_steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / n_steps


@bench.case("ResNet-18 on a GPU, intervals (10,100), batch 128")
def on_gpu(run: Run) -> None:
    """Wall time, means over whole intervals of inverses; needs a GPU that torch can use."""
    if not torch.cuda.is_available():
        print(f"{run.case}: not measured, for torch finds no GPU on this machine")
        return
    steps = resnet_steps(torch.device("cuda"), 128)
    turns = [[gpu_seconds(step, 100) for step in steps] for _ in range(2 if run.quick else 6)][1:]
    kfac, sgd = zip(*turns, strict=True)
    milliseconds = [1e3 * statistics.median(each) for each in (kfac, sgd)]
    run.record(WALL_STEP, ours=milliseconds[0], peer=milliseconds[1], peer_name="SGD")
    run.record(WALL_COST, ours=times(kfac, sgd), goal=Goal.ours(1.15))


@bench.case("accuracy, recorded")
def accuracy(run: Run) -> None:
    """The goals of the study of large batches; that study takes half an hour and is not run here."""
    recorded = json.loads((RESULTS / "large_batch.json").read_text())
    for case in recorded["cases"]:
        if case["goal"]:
            run.publish(Row(**case | {"case": f"{run.case}/{case['case']}"}))


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(bench.main())
