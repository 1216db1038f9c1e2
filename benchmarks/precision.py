"""Half-precision inference beside onnxruntime, OpenVINO, ncnn and torch: one core, ratios in one run.

"Best FP32" is the fastest of the engines at float32, each with its own layout of images, on the same folded layers.
Rows "from and to torch" are ours with images in torch's order on both ends, all others with images channels last.
Sides take turns on one pinned core; samples during which other work took the core are dropped. Warm: the same numbers
are used again and again. Cold: the caches are swept before each run. A network runs as a whole. The peers come with
`pip install '.[bench]'`; where one is missing, the table says so.
"""

import functools
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _frame import Benchmark, Goal, Quantity, Run
from _networks import Storing, chain, he, inputs, resnet18
from _predicted import GROUPS, TITLE, record_all, record_shares
from _racing import (
    ERROR,
    TIME,
    Case,
    against,
    gain_of_copies,
    medians,
    sampling,
    sides_of,
    threads,
    whole,
)
from peers import engines
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.data import load_images
from pipeline.models import cnn, vit
from pipeline.models.imported import import_library
from pipeline.precision import (
    Budget,
    HalfNetwork,
    Sampling,
    compare_predictions,
    measure_attained,
    measure_roofs,
)
from pipeline.precision.sampling import TimedRun, one_core

PEAK = Quantity("part of FMA peak", "", smaller_is_better=False)
SHARE = Quantity("layers within 25 %", "", smaller_is_better=False)
GAIN = Quantity("work in the same time, beside one copy", "", smaller_is_better=False)
SIZE = Quantity("file, relative to FP32", "")
POINTS = Quantity("accuracy lost", "points")
SECONDS = Quantity("time", "s")

bench = Benchmark("precision", __doc__, packages=("onnxruntime", "openvino", "ncnn", "onnx"))


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
    """A matrix-vector product from memory: half the bytes make it twice as fast."""
    against(run, product(1024 if run.quick else 4096, 1), best=2.0, own=1.9, cold=True)


@bench.case("FC at the L3 cliff, warm")
def cliff(run: Run) -> None:
    """Weights that fit the last cache only in half precision."""
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
    """Groups that are narrower than a vector, and therefore slow."""
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
    """Time a layer of low intensity between others, against its float32 twin; elements are what it moves."""
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
    # Below 9e-3, the error of other engines at bfloat16, which are timed beside it.
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


def resnet50(run: Run) -> Case:
    """With random weights: times are meaningful, but errors are larger than those of a trained network."""
    size = 64 if run.quick else 224
    module = import_library("torchvision.models").resnet50(weights=None)
    return Case(he(module), inputs(1, 3, size, size), Budget(output_error=0.1, layer_error=1e-2))


def small_resnet18() -> Case:
    # Below 4e-3, the error of other engines at bfloat16, which are timed beside it.
    return Case(he(resnet18()), inputs(1, 3, 32, 32), Budget(output_error=3e-3))


@bench.case("ResNet-18 @32")
def residual_network(run: Run) -> None:
    against(run, small_resnet18(), torch_ratio=3.0, openvino=1.8, bfloat16=True)


@bench.case("ResNet-50 @224")
def deep_residual_network(run: Run) -> None:
    case = resnet50(run)
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


def transformer(batch: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    module = vit(input_shape=(1, 28, 28), n_classes=10, generator=generator)
    return Case(module.eval(), inputs(batch, 1, 28, 28))


@bench.case("vit @28")
def vision_transformer(run: Run) -> None:
    """The pipeline's own network, with its initial weights."""
    against(run, transformer(1), best=1.2, bfloat16=True)


@bench.case("vit @28, batch 64")
def vision_transformer_batch(run: Run) -> None:
    against(run, transformer(4 if run.quick else 64), best=1.2, bfloat16=True)


@bench.case("two cores")
def two_cores(run: Run) -> None:
    """The same networks on one and on two cores, and the engines with as many threads."""
    for name, case in (("ResNet-18 @32", small_resnet18()), ("ResNet-50 @224", resnet50(run))):
        network = case.network
        one = medians(run, {"ours": whole(network, case.x)})["ours"]
        problem = replace(case.problem, n_threads=2)
        rivals = [engines.onnxruntime(problem), engines.openvino_bfloat16(problem)]
        calls = {"ours": whole(network, case.x)} | {
            peer.name: peer.run for peer in rivals if peer is not None
        }
        times = medians(run, calls, n_threads=2)
        run.record(TIME, ours=times["ours"], peer=one, peer_name="ours on one core", goal=Goal.ratio(1.7),
                   part=f"{name}, beside one core")  # fmt: skip
        # The machine's gain for networks that do not wait for each other: no division of the work gains more.
        run.record(GAIN, ours=gain_of_copies(run, network, case.x), part=f"{name}, two copies at once")
        for peer in filter(None, rivals):
            goal = (
                {"onnxruntime fp32": 2.0, "openvino bf16": 1.0}[peer.name]
                if name == "ResNet-50 @224"
                else None
            )
            run.record(TIME, ours=times["ours"], peer=times[peer.name], peer_name=peer.name,
                       goal=goal and Goal.ratio(goal), part=f"{name}, {peer.name}")  # fmt: skip


@bench.case("latency")
def latency(run: Run) -> None:
    """The times of single runs, one after the other, disturbed ones included: medians and high percentiles."""
    case = small_resnet18()
    rivals = [engines.onnxruntime(case.problem), engines.openvino_bfloat16(case.problem)]
    calls = {"ours": whole(case.network, case.x)} | {peer.name: peer.run for peer in filter(None, rivals)}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with threads(1):
        for _ in range(20 if run.quick else 2000):
            for name, side in sides_of(calls).items():
                taken[name].append(side(1) * 1e6)
    for percentile in (50, 90, 99, 99.9):
        figures = {name: float(np.percentile(of_side, percentile)) for name, of_side in taken.items()}
        for name in figures:
            if name != "ours":
                run.record(TIME, ours=figures["ours"], peer=figures[name], peer_name=name,
                           part=f"ResNet-18 @32, {percentile} % within, {name}")  # fmt: skip


@bench.case("batch sizes")
def batch_sizes(run: Run) -> None:
    """Time of one sample in batches of 1 to 64, compared with float32, and the limit of half precision there."""
    layers = {"conv3x3 128 @16": convolution(128, 128, 16), "FC 1024": product(1024, 1)}
    roofs = measure_attained(measure_roofs())
    sizes = (1, 8) if run.quick else (1, 2, 4, 8, 16, 32, 64)
    for name, case in layers.items():
        rows = case.network.time_layers(
            case.x, batch_sizes=sizes, roofs=roofs, sampling=Sampling(n_samples=15, seconds_at_most=2.0)
        )
        before = ""
        for row in rows:
            changed = f", no longer {before}" if before not in ("", row.bound) else ""
            run.record(
                TIME,
                ours=row.seconds_fp16 / row.batch * 1e6,
                peer=row.seconds_fp32 / row.batch * 1e6,
                peer_name="own fp32 twin",
                part=f"{name}, batch {row.batch}, limited by {row.bound}{changed}",
            )
            before = row.bound


@bench.case("direct convolution, part of peak")
def direct_peak(run: Run) -> None:
    """FLOPs per second of the direct convolution in float32, relative to a loop of multiply-adds measured beside it."""
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
    """Share of the measured times of layers above that are within 25 % of the prediction, warm and in the network."""
    cases = [convolution(64, 64, 32), product(2048, 1), Case(he(resnet18()), inputs(1, 3, 32, 32))]
    within: list[bool] = []
    for case in cases:
        network = case.network
        for mode in ("warm", "network"):
            roofs = measure_attained(measure_roofs())  # measured shortly before the times that they predict
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


def predictions(group: str) -> None:
    """Add a case for the layers of a group of networks that are timed here and in `pretrained`."""
    bench.case(f"{TITLE}, {group}")(functools.partial(record_shares, group=group))


for name in GROUPS:
    predictions(name)


@bench.case(f"{TITLE}, all networks")
def prediction_everywhere(run: Run) -> None:
    """All of these networks together."""
    record_all(run, bench.results / "precision.json", goal=0.9)


@bench.case("converting ResNet-50")
def conversion(run: Run) -> None:
    """From a module to a network in half precision, with the default budget and 8 samples, on all cores."""
    for size in (64,) if run.quick else (96, 224):
        module = he(import_library("torchvision.models").resnet50(weights=None))
        x = inputs(8, 3, size, size)
        start = time.perf_counter()
        network = HalfNetwork.convert(module, x)
        taken = time.perf_counter() - start
        n_half = sum(layer.weight_dtype == "float16" for layer in network.layers if layer.has_weights)
        n = sum(layer.has_weights for layer in network.layers)
        run.record(
            SECONDS,
            ours=taken,
            goal=Goal.ours(20.0),
            part=f"{size} pixels, {n_half} of {n} layers in half precision",
        )


@bench.case("trained network, Fashion-MNIST")
def trained(run: Run) -> None:
    """Accuracy on the test split at float32 and in half precision, with measured routines, and the size of the files.

    Both files have folded normalizations; the half-precision file includes its plan.
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
    network = converted.choose_routines(samples, classes, sampling=sampling(run)).network  # as timed
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
