"""Which networks of torchvision and timm convert, and how far they are from float64: a table in Markdown.

Weights are random, so the errors show the arithmetic and not trained answers. `pip install '.[vision]'`, then
`python benchmarks/coverage.py [--size 96] [NAME ...]`; a network that is refused is listed with the error.
"""

import argparse
import importlib
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import build_model
from pipeline.models.imported import import_library
from pipeline.precision import Budget, HalfNetwork
from pipeline.precision.error import relative_error

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vit_b_16",
    "wide_resnet50_2",
)  # fmt: skip
TIMM = (
    "convnext_atto", "cspresnet50", "dla34", "edgenext_xx_small", "efficientnet_lite0", "fastvit_t8", "ghostnet_050",
    "hrnet_w18_small", "levit_128s", "mixer_s32_224", "mobilenetv3_small_050", "mobilevit_xxs", "poolformer_s12",
    "regnety_002", "repvgg_a0", "resmlp_12_224", "resnet10t", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224",
)  # fmt: skip
SIZES = {"maxvit_t": 224}  # for networks that take no other size
BUILT_FOR = ("vit_b_16",)  # networks that are built for a size, by torchvision's names
BUILT_FOR_TIMM = ("mixer", "resmlp", "swin", "vit", "levit")


def torchvision_network(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"image_size": size} if name in BUILT_FOR else {}
    return getattr(import_library("torchvision.models"), name)(weights=None, **options)  # type: ignore[no-any-return]


def timm_network(name: str, size: int) -> nn.Module:
    import_library("torchvision")  # timm imports it
    options = {"img_size": size} if name.startswith(BUILT_FOR_TIMM) else {}
    return importlib.import_module("timm").create_model(name, **options)  # type: ignore[no-any-return]


def own_network(name: str, size: int) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return build_model(name, input_shape=(3, size, size), n_classes=10, generator=generator)


def row(library: str, name: str, build: Callable[[str, int], nn.Module], size: int) -> str:
    """One line of the table."""
    torch.manual_seed(0)
    try:
        module, x = build(name, size).eval(), torch.randn(2, 3, size, size)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = HalfNetwork.convert(module, x)
        seconds = time.perf_counter() - start
    except ConfigError as refusal:
        return f"| {library} {name} | {size} | refused: {refusal} | | | |"
    with torch.no_grad():
        exact: Tensor = module.double()(x.double())
    weighted = [layer for layer in network.layers if layer.has_weights]
    n_half = sum(layer.weight_dtype == "float16" for layer in weighted)
    error = relative_error(network(x), exact)
    verdict = "yes" if error <= Budget().output_error else "over budget"
    cells = (
        f"{library} {name}",
        size,
        verdict,
        len(network.layers),
        f"{n_half} of {len(weighted)}",
        f"{error:.1e}",
    )
    return f"| {' | '.join(map(str, cells))} | {seconds:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks to try; all of the table if none")
    parser.add_argument("--size", type=int, default=96, help="pixels of a side")
    options = parser.parse_args()
    lists: Mapping[str, tuple[tuple[str, ...], Callable[[str, int], nn.Module]]] = {
        "torchvision": (TORCHVISION, torchvision_network),
        "timm": (TIMM, timm_network),
        "ours": (("cnn", "resnet", "vit"), own_network),
    }
    print("| network | pixels | converts | layers | weights in FP16 | error | seconds |")
    print("|---|---|---|---|---|---|---|")
    for library, (names, build) in lists.items():
        for name in names:
            if not options.names or name in options.names:
                print(row(library, name, build, SIZES.get(name, options.size)), flush=True)


if __name__ == "__main__":
    main()
