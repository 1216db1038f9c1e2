"""Pretrained networks in half precision beside OpenVINO's bfloat16 and onnxruntime's float32, one core.

Networks come from installed packages. Two figures judge their answers: how often the best class is that of float64, on
1,000 crops of photographs in packages and on 1,000 others, and the relative error of their outputs. The classifier of
turned text has labels, since its lines are rendered here. Routines are chosen by measured time with an error of at most
.6 of OpenVINO's bfloat16. Networks with classes have two more plans, "close" with an error of at most 8e-3, and
"closest" with at most 3e-3. Needs `pip install '.[bench,vision]'`.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from _frame import Benchmark, Goal, Quantity, Run
from _pretrained import (
    CACHE,
    SIZE,
    all_photographs,
    lines_of_text,
    mobilenet_v2,
    normalized,
    page,
    rotation_classifier,
    text_detector,
)
from _racing import ERROR, TIME, medians, sampling, whole
from peers import engines
from peers.engines import Engine, Problem
from torch import Tensor, nn

from pipeline.data.photographs import crops
from pipeline.models.packaged import PACKAGED
from pipeline.precision import Budget, HalfNetwork
from pipeline.precision.error import relative_error
from pipeline.precision.sampling import one_core

AGREEMENT = Quantity("same answer as float64", "%", smaller_is_better=False)
ACCURACY = Quantity("accuracy", "%", smaller_is_better=False)
LAYER_ERROR = 1e-2  # bfloat16 products add about half of it; the output's error decides
SHARE_OF_ERROR = 0.6  # of OpenVINO's bfloat16; the goal is 2 / 3

bench = Benchmark("pretrained", __doc__, packages=("onnxruntime", "openvino", "onnx", "torch"))


@dataclass(frozen=True)
class Trained:
    """A trained network with inputs to calibrate it with and others to judge it by."""

    module: nn.Module
    calibration: Tensor
    samples: Tensor


def exact(module: nn.Module, x: Tensor) -> Tensor:
    """Return the network's outputs in float64, from the cache if possible: a thousand crops take two minutes."""
    digest = hashlib.sha256(x.numpy().tobytes())
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
    kept = CACHE / "exact" / f"{digest.hexdigest()}.npy"
    if kept.exists():
        return torch.from_numpy(np.load(kept))
    module = module.double()
    with torch.inference_mode():
        found = torch.cat([module(part.double()) for part in x.split(25)])
    module.float()
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, found.numpy())
    return found


def compare(
    run: Run, trained: Trained, *, output_error: float | None = None, plan: str = ""
) -> tuple[HalfNetwork, Tensor, Tensor, Tensor | None]:
    """Convert, choose routines, and time one sample in turn with the engines.

    Args:
        run: The run to report to.
        trained: The network.
        output_error: Largest error of the plan; None for a share of OpenVINO's bfloat16.
        plan: Name of the plan in the rows.

    Returns:
        The network; the outputs of float64, of the network, and of OpenVINO's bfloat16, if OpenVINO is installed.
    """
    of_plan = f" [{plan}]" if plan else ""
    least = (
        Budget() if output_error is None else Budget(output_error=min(output_error, Budget().output_error))
    )
    converted = HalfNetwork.convert(trained.module, trained.calibration, budget=least)
    x = trained.samples[:1]
    problem = Problem(converted.layers, converted.parameters, x)
    with one_core():
        rivals = [engines.onnxruntime(problem), engines.openvino(problem), engines.openvino_bfloat16(problem)]
    single = [engine for engine in rivals[:2] if engine is not None]
    for engine in single:
        engines.check(problem, engine, 1e-4)
    wide = rivals[2]
    wanted = exact(trained.module, trained.calibration)
    budget = Budget(output_error=output_error or Budget().output_error)
    if wide is not None and output_error is None:
        allowed = SHARE_OF_ERROR * relative_error(answers(wide, trained.calibration), wanted)
        budget = Budget(output_error=allowed, layer_error=LAYER_ERROR)
    network = converted.choose_routines(
        trained.calibration, exact=wanted, budget=budget, sampling=sampling(run)
    ).network
    calls: dict[str, Callable[[], object]] = {
        "ours": whole(network, x),
        "own": whole(network, x, single=True),
    }
    calls["torch's order"] = partial(network, x)
    calls |= {engine.name: engine.run for engine in rivals if engine is not None}
    times = medians(run, calls)
    for peer in (*single, wide):
        if peer is not None:
            goal = Goal.ratio(1.0) if peer is wide else None
            run.record(TIME, ours=times["ours"], peer=times[peer.name], peer_name=peer.name, goal=goal,
                       part=f"beside {peer.name}{of_plan}")  # fmt: skip
    run.record(TIME, ours=times["torch's order"], peer=times["own"], peer_name="own fp32 twin",
               part=f"from and to torch{of_plan}")  # fmt: skip
    reference = exact(trained.module, trained.samples)
    found = torch.cat([network(part) for part in trained.samples.split(25)])
    theirs = None if wide is None else answers(wide, trained.samples)
    run.record(
        ERROR,
        ours=relative_error(found, reference),
        peer=None if theirs is None else relative_error(theirs, reference),
        peer_name="openvino bf16",
        goal=Goal.ratio(1.5),
        part=f"logits{of_plan}" if plan else "outputs",
    )
    return network, reference, found, theirs


def answers(engine: Engine, x: Tensor) -> Tensor:
    """Return the engine's outputs for samples, one at a time."""
    return torch.cat([engine.answer(part) for part in x.split(1)])


def classes(run: Run, trained: Trained) -> None:
    """Compare, and report how often the best class is that of float64."""
    for plan, output_error in (("fast", None), ("close", 8e-3), ("closest", 3e-3)):
        _, reference, found, theirs = compare(run, trained, output_error=output_error, plan=plan)
        for which, half in zip(("", "other "), torch.arange(len(reference)).chunk(2), strict=True):
            run.record(
                AGREEMENT,
                ours=same(found[half], reference[half]),
                peer=None if theirs is None else same(theirs[half], reference[half]),
                peer_name="openvino bf16",
                goal=Goal.ours(99.7),
                part=f"of {len(half)} {which}crops [{plan}]",
            )


def same(found: Tensor, wanted: Tensor) -> float:
    return 100 * (found.argmax(1) == wanted.argmax(1)).double().mean().item()


def photographed(run: Run, module: nn.Module, prepared: Callable[[Tensor], Tensor]) -> Trained:
    """Return a network with crops of photographs: some to calibrate it, and two halves to judge it.

    The strength of the bias correction was chosen on the first half; the second half judges that choice.
    """
    n = 50 if run.quick else 1000
    first, *judges = (
        prepared(crops(all_photographs(), count, size=SIZE, seed=seed))
        for count, seed in ((64, 1), (n, 2), (n, 3))
    )
    return Trained(module, first, torch.cat(judges))


@bench.case("MobileNetV2, 224")
def mobilenet(run: Run) -> None:
    classes(run, photographed(run, mobilenet_v2(), normalized))


@bench.case("EfficientNet-Lite0, 224")
def efficientnet(run: Run) -> None:
    packaged = PACKAGED["efficientnet_lite0"]
    classes(run, photographed(run, packaged.load(), packaged.prepare))


@bench.case("rotation classifier, 48 x 192")
def rotation(run: Run) -> None:
    """Lines of text, half of them upside down."""
    samples, labels = lines_of_text(50 if run.quick else 1000, seed=2)
    trained = Trained(rotation_classifier(), lines_of_text(64, seed=1)[0], samples)
    _, reference, found, theirs = compare(run, trained)
    for part, values, peer in (("half", found, theirs), ("float64", reference, None)):
        accuracy = 100 * (values.argmax(1) == labels).double().mean().item()
        other = None if peer is None else 100 * (peer.argmax(1) == labels).double().mean().item()
        run.record(
            ACCURACY, ours=accuracy, peer=other, peer_name="openvino bf16" if peer is not None else None, part=part
        )  # fmt: skip
    run.record(AGREEMENT, ours=same(found, reference), goal=Goal.ours(99.7), part=f"of {len(labels)} lines")


@bench.case("text detector, 192 x 384")
def detector(run: Run) -> None:
    """Pixels of a printed page that are text, at the default threshold of the detector's own package."""
    image, generator, pieces = page(), np.random.default_rng(2), []
    for _ in range(4 if run.quick else 16):
        width = generator.uniform(0.5, 1.0) * min(image.width, 2 * image.height)
        left = generator.uniform(0, image.width - width)
        top = generator.uniform(0, image.height - width / 2)
        pieces.append(image.resize((384, 192), box=(left, top, left + width, top + width / 2)))
    pixels = np.stack([np.asarray(piece, np.float32) for piece in pieces])
    x = torch.from_numpy(pixels / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    _, reference, found, theirs = compare(
        run, Trained(text_detector(192, 384), x[: len(x) // 2], x[len(x) // 2 :])
    )
    limit = 0.3

    def share(values: Tensor) -> float:
        return 100 * ((values > limit) == (reference > limit)).double().mean().item()

    run.record(
        AGREEMENT, ours=share(found), peer=None if theirs is None else share(theirs), peer_name="openvino bf16",
        part="of all pixels",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(bench.main())
