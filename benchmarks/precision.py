"""Half-precision inference beside onnxruntime, OpenVINO, ncnn and torch: one core, ratios in one run.

"Best FP32" is the fastest of the engines at float32, each with its own layout of images, on the same folded layers.
Rows "from and to torch" are ours with images in torch's order on both ends, all others with images channels last.
Sides take turns on one pinned core; samples during which the core was taken away are dropped. Warm, the same numbers
are used again and again; cold, the caches are swept before each run; a network runs as a whole. The peers come with
`pip install '.[bench]'`; one that is missing is left out, and the table says so.
"""

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from _frame import Benchmark, Goal, Quantity, Run
from _networks import Storing, chain, he, inputs, resnet18
from peers import engines
from peers.engines import Engine, Problem
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.data import load_images
from pipeline.models import cnn
from pipeline.models.imported import import_library
from pipeline.precision import (
    Budget,
    HalfNetwork,
    Roofs,
    Sampling,
    compare_predictions,
    measure_attained,
    measure_roofs,
)
from pipeline.precision.sampling import TimedRun, one_core

TIME = Quantity("time", "µs")
ERROR = Quantity("relative error", "")
PEAK = Quantity("part of FMA peak", "", smaller_is_better=False)
SHARE = Quantity("layers within 25 %", "", smaller_is_better=False)
SIZE = Quantity("file, relative to FP32", "")
POINTS = Quantity("accuracy lost", "points")

bench = Benchmark("precision", __doc__, packages=("onnxruntime", "openvino", "ncnn", "onnx"))


@dataclass(frozen=True)
class Case:
    """A module, a batch of inputs, and the same as a half-precision network with measured routines.

    Attributes:
        module: What the engines run.
        x: The batch.
        budget: What half precision may cost.
    """

    module: nn.Module
    x: Tensor
    budget: Budget = field(default_factory=Budget)

    @functools.cached_property
    def network(self) -> HalfNetwork:
        torch.manual_seed(0)
        network = HalfNetwork.convert(self.module, self.x)
        sampling = Sampling(n_samples=15, seconds_at_most=5.0)
        return network.choose_routines(
            self.x, batch=len(self.x), sampling=sampling, budget=self.budget
        ).network

    @functools.cached_property
    def problem(self) -> Problem:
        return Problem(self.network.layers, self.network.parameters, self.x)

    @property
    def routines(self) -> str:
        """The routines of the layers, each once."""
        return ", ".join(dict.fromkeys(layer.routine for layer in self.network.layers))


def sampling(run: Run, cold: bool = False) -> Sampling:
    if run.quick:
        return Sampling(n_samples=5, seconds_at_most=1.0)
    return Sampling(n_samples=60, seconds_per_sample=300e-6, seconds_at_most=20.0 if cold else 12.0)


def sides_of(calls: Mapping[str, Callable[[], object]]) -> dict[str, TimedRun]:
    """Calls as the sampler wants them: how long so many runs take."""

    def side(call: Callable[[], object], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start

    return {name: functools.partial(side, call) for name, call in calls.items()}


def medians(run: Run, calls: Mapping[str, Callable[[], object]], *, cold: bool = False) -> dict[str, float]:
    """Median microseconds of every call, all in turn."""
    sides = sides_of(calls)
    with one_core():
        if cold:
            swept = torch.ones(measured_roofs().cache_bytes.get("L3", 32 << 20) * 2 // 4 + 1)
            # Ours in torch's order reads the same weights as ours, which would be warm behind it.
            shared = {name: sides.pop(name) for name in list(sides) if name.endswith("torch's order")}
            taken = sampling(run, cold).cold([sides, shared], chill=swept.sum)
        else:
            taken = sampling(run)(sides)
    return {name: float(np.median(samples.seconds)) * 1e6 for name, samples in taken.items()}


@functools.cache
def measured_roofs() -> Roofs:
    return measure_roofs()


def whole(network: HalfNetwork, x: Tensor, *, single: bool = False) -> Callable[[], object]:
    """A run of the packed network on buffers of its own, as the other engines have them.

    Its images lie channels last in these buffers, as ours do everywhere. An engine that takes them channels first and
    prefers another order converts them in its run; beside such a one, see the row "from and to torch".
    """
    execution = network.float_twin() if single else network.execution
    return execution.prepared(x)


def against(
    run: Run,
    case: Case,
    *,
    best: float | None = None,
    torch_ratio: float | None = None,
    own: float | None = None,
    onnxruntime: float | None = None,
    openvino: float | None = None,
    bfloat16: bool = False,
    cold: bool = False,
) -> dict[str, float]:
    """Race the network against its float32 twin and every engine; report the rows that have a goal.

    Args:
        run: Where to report.
        case: What to run.
        best: Goal over the fastest engine at float32.
        torch_ratio: Goal over torch at float32.
        own: Goal over our own float32 twin.
        onnxruntime: Goal over onnxruntime at float32.
        openvino: Goal over OpenVINO at float32.
        bfloat16: Whether the engines' bfloat16 is raced too, without a goal.
        cold: Whether the caches are swept before each run.
    """
    problem, network = case.problem, case.network
    with one_core():  # as in the race: each engine chooses its memory format by timing it
        peers: list[Engine] = engines.float32_engines(problem)
        wide = [engines.torch_bfloat16(problem), engines.openvino_bfloat16(problem)] if bfloat16 else []
    for peer in peers:
        assert peer.precision in ("", "fp32", "f32", "float32"), f"{peer.name} ran {peer.precision}"
    calls = {"ours fp16": whole(network, case.x), "ours fp32": whole(network, case.x, single=True)}
    calls["ours fp16, torch's order"] = functools.partial(network, case.x)
    calls |= {engine.name: engine.run for engine in [*peers, *filter(None, wide)]}
    error = problem.error(network(case.x))
    assert error < 2e-2, f"off by {error:.1e} of float64"
    times = medians(run, calls, cold=cold)
    ours = times.pop("ours fp16")
    own_fp32 = times.pop("ours fp32")
    reordered = times.pop("ours fp16, torch's order")
    singles = {engine.name: times[engine.name] for engine in peers}
    fastest = min(singles, key=lambda name: singles[name])

    def row(name: str, peer: float | None, goal: float | None, part: str) -> None:
        run.record(TIME, ours=ours, peer=peer, peer_name=name, goal=goal and Goal.ratio(goal), part=part)

    row(f"{fastest}", singles[fastest], best, f"best FP32 [{case.routines}]")
    row("own fp32 twin", own_fp32, own, "own")
    run.record(TIME, ours=reordered, peer=singles[fastest], peer_name=fastest, part="from and to torch")
    for name, goal in (
        ("torch fp32", torch_ratio),
        ("onnxruntime fp32", onnxruntime),
        ("openvino fp32", openvino),
    ):
        if goal is not None:
            row(name, singles.get(name), goal, name.split()[0])
    for engine in filter(None, wide):
        row(f"{engine.name} ({engine.precision})", times[engine.name], None, "bf16")
        run.record(ERROR, ours=error, peer=problem.error(engine.result()), peer_name=engine.name, part="bf16")
    return {"ours": ours, "own": own_fp32, "error": error} | times


def convolution(
    channels: int, outputs: int, size: int, *, kernel: int = 3, batch: int = 1, groups: int = 1
) -> Case:
    module = nn.Sequential(
        nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, groups=groups), nn.ReLU()
    )
    return Case(he(module), inputs(batch, channels, size, size))


def product(n: int, batch: int) -> Case:
    return Case(he(nn.Sequential(nn.Linear(n, n), nn.ReLU())), inputs(batch, n))


@bench.case("FC 4096x4096, cold")
def fully_connected(run: Run) -> None:
    """A matrix-vector product out of memory, which half the bytes make twice as fast."""
    against(run, product(1024 if run.quick else 4096, 1), best=2.0, own=1.9, cold=True)


@bench.case("FC at the L3 cliff, warm")
def cliff(run: Run) -> None:
    """Weights that fit the last cache in half precision only."""
    against(run, product(1024 if run.quick else 3072, 1))


@bench.case("FC 4096, batch 64")
def fully_connected_batch(run: Run) -> None:
    against(run, product(1024 if run.quick else 4096, 64), onnxruntime=1.4)


@bench.case("conv3x3 64 @32")
def conv64(run: Run) -> None:
    against(run, convolution(64, 64, 32), best=1.1, torch_ratio=2.4)


@bench.case("conv3x3 128 @16")
def conv128(run: Run) -> None:
    against(run, convolution(128, 128, 16), best=1.1, torch_ratio=2.4)


@bench.case("conv3x3 256 @8")
def conv256(run: Run) -> None:
    against(run, convolution(256, 256, 8), best=1.1, torch_ratio=2.4)


@bench.case("conv3x3 512 @4")
def conv512(run: Run) -> None:
    against(run, convolution(512, 512, 4), best=2.5)


@bench.case("conv3x3 64 @32, batch 64")
def conv_batch(run: Run) -> None:
    against(run, convolution(64, 64, 32, batch=4 if run.quick else 64), torch_ratio=2.0, bfloat16=True)


@bench.case("conv1x1 64 @32")
def conv1x1(run: Run) -> None:
    against(run, convolution(64, 64, 32, kernel=1), best=1.0)


@bench.case("conv1x1 512 to 2048 @4")
def conv1x1_wide(run: Run) -> None:
    against(run, convolution(512, 2048, 4, kernel=1), best=1.0)


@bench.case("grouped 3x3 64 @56")
def grouped(run: Run) -> None:
    """Groups that are narrower than a vector, which is what makes them slow."""
    for groups in (2, 8) if run.quick else (2, 4, 8, 16, 32):
        case = convolution(64, 64, 14 if run.quick else 56, groups=groups)
        network, problem = case.network, case.problem
        with one_core():
            peers = [engines.torch_eager(problem), engines.onnxruntime(problem)]
        error = problem.error(network(case.x))
        assert error < 2e-2, f"off by {error:.1e} of float64"
        calls = {"ours": whole(network, case.x)}
        times = medians(run, calls | {peer.name: peer.run for peer in peers if peer is not None})
        for peer in filter(None, peers):
            goal = Goal.ratio(1.2) if peer.name.startswith("torch") else None
            part = f"{groups} groups, {peer.name.split()[0]} [{case.routines}]"
            run.record(
                TIME, ours=times["ours"], peer=times[peer.name], peer_name=peer.name, goal=goal, part=part
            )


def inner_layer(run: Run, module: nn.Module, x: Tensor) -> None:
    """Time a layer of low intensity between others, against its float32 twin: elements are what it moves."""
    network = Case(Storing(he(module), residual=isinstance(module, nn.Identity)), x).network
    place = 1
    sides: dict[str, TimedRun] = {}
    for name, execution in (("fp16", network.execution), ("fp32", network.float_twin())):
        given, result, addend = execution.steps(x)[place]
        native = execution.native[place]
        sides[name] = lambda n, native=native, given=given, result=result, addend=addend: native.seconds(
            given, result, n, addend
        )
    with one_core():
        taken = sampling(run)(sides)
    ours, own = (float(np.median(taken[name].seconds)) * 1e6 for name in ("fp16", "fp32"))
    run.record(TIME, ours=ours, peer=own, peer_name="own fp32 twin", goal=Goal.ratio(2.0), part="own")


@bench.case("depthwise 3x3 64 @32, batch 64")
def depthwise(run: Run) -> None:
    batch = 4 if run.quick else 64
    inner_layer(run, nn.Conv2d(64, 64, 3, padding=1, groups=64), inputs(batch, 64, 32, 32))


@bench.case("add 64 @32, batch 64")
def addition(run: Run) -> None:
    inner_layer(run, nn.Identity(), inputs(4 if run.quick else 64, 64, 32, 32))


@bench.case("pool 64 @32, batch 64")
def pooling(run: Run) -> None:
    inner_layer(run, nn.MaxPool2d(2), inputs(4 if run.quick else 64, 64, 32, 32))


@bench.case("16-convolution chain")
def convolution_chain(run: Run) -> None:
    # Below the 9e-3 that other engines are off by at bfloat16, beside which it is timed.
    case = Case(he(chain()), inputs(1, 64, 32, 32), Budget(output_error=8e-3))
    times = against(run, case, bfloat16=True)
    rivals = {name: times[name] for name in ("onnxruntime fp32", "openvino fp32") if name in times}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    run.record(
        TIME,
        ours=times["ours"],
        peer=best and rivals[best],
        peer_name=best or "onnxruntime, openvino",
        goal=Goal.ratio(2.0),
        part="best of onnxruntime, openvino",
    )


@bench.case("ResNet-18 @32")
def residual_network(run: Run) -> None:
    # Below the 4e-3 that other engines are off by at bfloat16, beside which it is timed.
    case = Case(he(resnet18()), inputs(1, 3, 32, 32), Budget(output_error=3e-3))
    against(run, case, torch_ratio=3.0, openvino=1.8, bfloat16=True)


@bench.case("ResNet-50 @224")
def deep_residual_network(run: Run) -> None:
    """With random weights, which tell of time: errors are larger than those of a trained network."""
    size = 64 if run.quick else 224
    module = import_library("torchvision.models").resnet50(weights=None)
    case = Case(he(module), inputs(1, 3, size, size), Budget(output_error=0.1, layer_error=1e-2))
    problem, network = case.problem, case.network
    with one_core():
        single = [engines.onnxruntime(problem), engines.openvino(problem)]
        wide = engines.openvino_bfloat16(problem)
    calls = {"ours": whole(network, case.x)}
    peers = [peer for peer in (*single, wide) if peer is not None]
    times = medians(run, calls | {peer.name: peer.run for peer in peers})
    for peer in peers:
        goal = {"onnxruntime fp32": 2.0, "openvino bf16": 1.0}.get(peer.name)
        run.record(TIME, ours=times["ours"], peer=times[peer.name], peer_name=peer.name,
                   goal=goal and Goal.ratio(goal), part=peer.name)  # fmt: skip
    if wide is not None:
        error = problem.error(network(case.x))
        run.record(ERROR, ours=error, peer=problem.error(wide.result()), peer_name=wide.name, part="bf16")


@bench.case("direct convolution, part of peak")
def direct_peak(run: Run) -> None:
    """FLOPs per second of the direct convolution in float32 over those of a loop of multiply-adds beside it."""
    case = convolution(64, 64, 32)
    network = case.network.with_routines({layer.name: "direct fp32" for layer in case.network.layers})
    execution = network.float_twin()
    given, result, _ = execution.steps(case.x)[0]
    side = functools.partial(execution.native[0].seconds, given, result)
    parts = []
    with one_core():
        for _ in range(3 if run.quick else 9):
            roofs = measure_roofs(seconds=0.1)
            taken = Sampling(n_samples=20, seconds_at_most=0.5)({"ours": side})["ours"].seconds
            parts.append(execution.layers[0].flops / float(np.median(taken)) / roofs.gflops / 1e9)
    run.record(PEAK, ours=float(np.median(parts)), goal=Goal.ours(0.9))


@bench.case("predicted layer times")
def prediction(run: Run) -> None:
    """Layers of the cases above whose measured times are within 25 % of the predicted ones, warm and in the network."""
    cases = [convolution(64, 64, 32), product(2048, 1), Case(he(resnet18()), inputs(1, 3, 32, 32))]
    within: list[bool] = []
    for case in cases:
        network = case.network
        for mode in ("warm", "network"):
            roofs = measure_attained(measure_roofs())  # beside the times that they predict
            rows = network.time_layers(
                case.x,
                batch_sizes=(1, 8),
                roofs=roofs,
                mode=mode,
                sampling=Sampling(n_samples=15, seconds_at_most=2.0),
            )
            for row in rows:
                pairs = (
                    (row.predicted_seconds_fp16, row.seconds_fp16),
                    (row.predicted_seconds_fp32, row.seconds_fp32),
                )
                within += [bool(abs(predicted / found - 1) <= 0.25) for predicted, found in pairs]
    run.record(SHARE, ours=sum(within) / len(within), goal=Goal.ours(0.8), part=f"{len(within)} timings")


@bench.case("trained network, Fashion-MNIST")
def trained(run: Run) -> None:
    """Accuracy on the test split at float32 and in half precision, on measured routines, and the size of the files.

    Both files have normalizations folded; the one in half precision comes with its plan.
    """
    images = load_images("fashion_mnist", directory=None, cache=Path(".data"))
    pixels, labels = torch.from_numpy(images.train_images), torch.from_numpy(images.train_labels)
    mean, deviation = pixels.float().mean(), pixels.float().std()

    def normalized(x: Tensor) -> Tensor:
        return ((x.float() - mean) / deviation).unsqueeze(1)

    generator = torch.Generator().manual_seed(0)
    model = cnn(input_shape=(1, 28, 28), n_classes=10, generator=generator, batch_norm=True)
    n_train = 4096 if run.quick else 24576
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for epoch in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - epoch / 3)
        for part in torch.randperm(n_train, generator=generator).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(normalized(pixels[part])), labels[part]).backward()
            optimizer.step()
    model.eval()
    held_out = slice(-4096, None)
    samples, classes = normalized(pixels[held_out]), labels[held_out]
    converted = HalfNetwork.convert(model, samples, classes)
    network = converted.choose_routines(samples, classes, sampling=sampling(run)).network  # as it is timed
    x, y = normalized(torch.from_numpy(images.test_images)), torch.from_numpy(images.test_labels)
    with torch.no_grad():
        found = compare_predictions(model(x), network(x), y)
    run.record(
        POINTS, ours=found.points_lost, goal=Goal.ours(0.05), part=f"of {100 * found.accuracy_before:.2f} %"
    )
    with tempfile.TemporaryDirectory() as folder:
        single, half, plan = (Path(folder, name) for name in ("single", "half", "plan.json"))
        save_file(dict(network.parameters), single)
        save_file(network.tensors(), half)
        plan.write_text(json.dumps(network.plan()))
        n_bytes = half.stat().st_size + plan.stat().st_size
        run.record(SIZE, ours=n_bytes / single.stat().st_size, goal=Goal.ours(0.51), part="weights and plan")


if __name__ == "__main__":
    sys.exit(bench.main())
