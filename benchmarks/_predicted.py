"""The share of network layers whose time is near the prediction of `pipeline.precision.roofline`.

Networks are counted in groups, one case each; the last case adds up the groups' rows in the result.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _frame import Goal, Quantity, Run
from _networks import Storing, chain, he, inputs, resnet18
from _pretrained import (
    SIZE,
    all_photographs,
    lines_of_text,
    mobilenet_v2,
    normalized,
    page,
    rotation_classifier,
    text_detector,
)
from _racing import Case
from torch import Tensor, nn

from pipeline.data.photographs import crops
from pipeline.models import vit
from pipeline.models.imported import import_library
from pipeline.models.packaged import PACKAGED
from pipeline.precision import Budget, Roofs, Sampling, measure_attained, measure_roofs

TITLE = "predicted layer times"
SAMPLING = Sampling(n_samples=15, seconds_at_most=0.2)
WHOLE = Sampling(n_samples=15, seconds_at_most=2.0)  # for whole networks
FAST = Budget(output_error=2e-2, layer_error=1e-2)
SHARES = {
    bound: Quantity(f"layers within {100 * bound:.0f} %", "", smaller_is_better=False)
    for bound in (0.25, 0.15)
}


def _photographed(module: nn.Module, prepare: Callable[[Tensor], Tensor]) -> Case:
    return Case(module, prepare(crops(all_photographs(), 8, size=SIZE, seed=1)), FAST)


def _efficientnet() -> Case:
    packaged = PACKAGED["efficientnet_lite0"]
    return _photographed(packaged.load(), packaged.prepare)


def _detector() -> Case:
    pixels = np.asarray(page().resize((384, 192)), np.float32)
    x = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None].contiguous()
    return Case(text_detector(192, 384), x, FAST)


def _resnet50() -> Case:
    module = import_library("torchvision.models").resnet50(weights=None)
    return Case(he(module), inputs(1, 3, 224, 224), Budget(output_error=0.1, layer_error=1e-2))


def _transformer() -> Case:
    module = vit(input_shape=(1, 28, 28), n_classes=10, generator=torch.Generator().manual_seed(0))
    return Case(module.eval(), inputs(1, 1, 28, 28))


def _convolution(channels: int, outputs: int, size: int, kernel: int = 3, groups: int = 1) -> Case:
    layer = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, groups=groups)
    return Case(he(nn.Sequential(layer, nn.ReLU())), inputs(1, channels, size, size))


def _product(n: int) -> Case:
    return Case(he(nn.Sequential(nn.Linear(n, n), nn.ReLU())), inputs(1, n))


def _between(layer: nn.Module) -> Case:
    module = Storing(layer, residual=isinstance(layer, nn.Identity))
    return Case(he(module), inputs(1, 64, 32, 32))


GROUPS: Mapping[str, Mapping[str, Callable[[], Case]]] = {
    "networks of classes": {
        "MobileNetV2, 224": lambda: _photographed(mobilenet_v2(), normalized),
        "EfficientNet-Lite0, 224": _efficientnet,
    },
    "networks of text": {
        "rotation classifier, 48 x 192": lambda: Case(
            rotation_classifier(), lines_of_text(8, seed=1)[0], FAST
        ),
        "text detector, 192 x 384": _detector,
    },
    "residual networks": {
        "ResNet-18 @32": lambda: Case(he(resnet18()), inputs(1, 3, 32, 32), Budget(output_error=3e-3)),
        "ResNet-50 @224": _resnet50,
    },
    "others": {
        "vit @28": _transformer,
        "16-convolution chain": lambda: Case(he(chain()), inputs(1, 64, 32, 32), Budget(output_error=8e-3)),
        **{f"grouped 3x3, {n} groups": partial(_convolution, 64, 64, 56, 3, n) for n in (2, 4, 8, 16, 32)},
        **{f"conv3x3 {n} @{2048 // n}": partial(_convolution, n, n, 2048 // n) for n in (64, 128, 256, 512)},
        "conv1x1 64 @32": partial(_convolution, 64, 64, 32, 1),
        "conv1x1 512 to 2048 @4": partial(_convolution, 512, 2048, 4, 1),
        "FC 3072": partial(_product, 3072),
        "FC 4096": partial(_product, 4096),
        "depthwise 3x3 64 @32": lambda: _between(nn.Conv2d(64, 64, 3, padding=1, groups=64)),
        "add 64 @32": lambda: _between(nn.Identity()),
        "pool 64 @32": lambda: _between(nn.MaxPool2d(2)),
    },
}
SINGLE = 4  # up to so many layers, a network uses the roofs of the one before


def quotients(case: Case, roofs: Roofs) -> list[float]:
    """Predicted over measured seconds of every layer, in both precisions, alone and in the network, for one sample."""
    found: list[float] = []
    for mode, sampling in (("warm", SAMPLING), ("network", WHOLE)):
        for row in case.network.time_layers(case.x[:1], (1,), roofs, mode=mode, sampling=sampling):
            found.append(row.predicted_seconds_fp16 / row.seconds_fp16)
            found.append(row.predicted_seconds_fp32 / row.seconds_fp32)
    return found


def record_shares(run: Run, group: str) -> None:
    """Report which share of the layers is predicted within bounds, by network."""
    networks = GROUPS[group]
    roofs: Roofs | None = None
    for name in list(networks)[-3:] if run.quick else networks:
        case = networks[name]()
        if roofs is None or len(case.network.layers) > SINGLE:
            roofs = measure_attained(measure_roofs())  # measured shortly before the times that they predict
        found = quotients(case, roofs)
        _record(run, {bound: _share(found, bound) for bound in SHARES}, f"{name}, {len(found)} timings", None)


def record_all(run: Run, rows: Path, goal: float) -> None:
    """Add up the rows of the groups in a result's file."""
    known = json.loads(rows.read_text())["cases"] if rows.exists() else []
    of_groups = [
        row for row in known if row["case"].startswith(tuple(f"{TITLE}, {group}/" for group in GROUPS))
    ]
    shares, n = {}, 0
    for bound, quantity in SHARES.items():
        counted = [
            (int(row["case"].rpartition(", ")[2].split()[0]), row["ours"])
            for row in of_groups
            if row["quantity"] == str(quantity)
        ]
        n = sum(count for count, _ in counted)
        if n == 0:
            return
        shares[bound] = sum(count * share for count, share in counted) / n
    _record(run, shares, f"{n} timings", Goal.ours(goal))


def _share(found: list[float], bound: float) -> float:
    return float(np.mean(np.abs(np.array(found) - 1) <= bound))


def _record(run: Run, shares: Mapping[float, float], part: str, goal: Goal | None) -> None:
    for bound, share in shares.items():
        run.record(SHARES[bound], ours=share, goal=goal if bound == 0.25 else None, part=part)
