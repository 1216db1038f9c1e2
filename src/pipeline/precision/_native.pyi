"""What `native/module.cpp` offers. Arrays are contiguous numpy arrays or torch tensors on the CPU, used in place."""

from collections.abc import Sequence
from typing import Any

class Layer:
    """A layer with packed weights."""

    def run(self, x: Any, y: Any) -> int:
        """Compute y (batch, ...) from x (batch, ...); return how many results were saturated."""

    def seconds(self, x: Any, y: Any, repeats: int) -> float:
        """The wall time of `repeats` runs."""

    def conversions(self, batch: int) -> int:
        """Numbers that one run converts between float16 and float32."""

    def routine(self, batch: int) -> str:
        """The routine that runs such a batch."""

    @property
    def input_size(self) -> int: ...
    @property
    def output_size(self) -> int: ...
    @property
    def half_input(self) -> bool: ...
    @property
    def half_output(self) -> bool: ...

class Chain:
    """Layers one after the other, over buffers for batches of at most `max_batch`."""

    def __init__(self, layers: Sequence[Layer], max_batch: int) -> None: ...
    def run(self, x: Any, y: Any) -> int: ...
    @property
    def max_batch(self) -> int: ...

def linear(
    instruction_set: str, weights: Any, scale: Any, bias: Any, relu: bool, half_input: bool, half_output: bool
) -> Layer: ...
def convolution(
    instruction_set: str,
    weights: Any,
    scale: Any,
    bias: Any,
    relu: bool,
    half_input: bool,
    half_output: bool,
    image: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Layer: ...
def pooling(
    instruction_set: str,
    image: Sequence[int],
    row_start: Sequence[int],
    row_end: Sequence[int],
    column_start: Sequence[int],
    column_end: Sequence[int],
    average: bool,
    relu: bool,
    half_input: bool,
    half_output: bool,
) -> Layer: ...
def convert(instruction_set: str, source: Any, target: Any) -> None: ...
def instruction_sets() -> list[str]: ...
def fma_rate(instruction_set: str, seconds: float) -> float: ...
def conversion_rate(instruction_set: str, seconds: float) -> float: ...
def read_rates(instruction_set: str, n_bytes: Sequence[int], seconds_each: float) -> list[float]: ...
