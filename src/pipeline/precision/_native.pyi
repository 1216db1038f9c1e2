"""What `native/module.cpp` offers. Arrays are contiguous numpy arrays or torch tensors on the CPU, used in place.

Activations are channels-last, float16 or float32, with the batch first. Weights are (outputs, inputs), the inputs of a
convolution ordered (kernel row, kernel column, channel of the group); float16 ones are stored as such, float32 ones as
the float32 twin. A layer computes relu(scale * (W x) + bias + residual); the argument `residual` names how the residual
is stored: "none", "float16" or "float32".
"""

from collections.abc import Sequence
from typing import Any

Function = tuple[str, float, float]  # one of `plan.FUNCTIONS`, or nothing, and its constants

class Layer:
    """A layer with packed weights. Threads may run it at once."""

    def run(self, x: Any, y: Any, residual: Any = None) -> int:
        """Compute y (batch, ...) from x (batch, ...); return how many results were saturated."""

    def seconds(self, x: Any, y: Any, repeats: int, residual: Any = None) -> float:
        """The wall time of `repeats` runs."""

    def conversions(self, batch: int) -> int:
        """Numbers that one run converts between float16 and float32."""

    def flops(self, batch: int) -> int:
        """Floating-point operations of the products that one run does; Winograd does fewer than the layer has."""

    def routine(self, batch: int) -> str:
        """The routine that runs such a batch."""

    def workspace_bytes(self, batch: int) -> int:
        """Bytes of scratch that one thread needs."""

    @property
    def input_size(self) -> int: ...
    @property
    def output_size(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def half_input(self) -> bool: ...
    @property
    def half_output(self) -> bool: ...

class Network:
    """Layers that feed each other, over buffers for batches of at most `max_batch`. One thread at a time may run it.

    Large results that only the next layer reads are handed on strip by strip and never lie in memory as a whole: such
    layers are one stage, of `n_stages`. What is computed is the same, bit for bit.

    Args:
        steps: (layer, input, residual) in the order of execution. Value 0 is the network's input, value i + 1 what
            step i gives; a residual of -1 is none. The last step gives the output.
    """

    def __init__(self, steps: Sequence[tuple[Layer, int, int]], max_batch: int) -> None: ...
    def run(self, x: Any, y: Any) -> int:
        """Compute y from x; return how many results, of all steps, were saturated."""

    def run_channels_first(
        self, instruction_set: str, x: Any, channels: int, y: Any, result_channels: int
    ) -> int:
        """Run on float32 images in torch's order, with results in torch's order, in a batch of any size.

        `channels` and `result_channels` are those of the images; 0 leaves numbers as they lie.
        """

    def seconds_per_step(self, x: Any, y: Any) -> list[float]:
        """Run once; return the wall time of each step."""

    @property
    def buffer_bytes(self) -> int: ...
    @property
    def n_stages(self) -> int: ...
    @property
    def max_batch(self) -> int: ...

def linear(
    instruction_set: str,
    weights: Any,
    scale: Any,
    bias: Any,
    relu: bool,
    half_input: bool,
    half_output: bool,
    residual: str = "none",
    routine: str = "product",
    function: Function = ("", 0.0, 0.0),
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
    groups: int = 1,
    residual: str = "none",
    routine: str = "direct",
    function: Function = ("", 0.0, 0.0),
) -> Layer:
    """Make a convolution; `padding` has two numbers, or four: above, to the left, below, to the right."""

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
    divisor: float = 0.0,
) -> Layer:
    """Make a pooling; a mean divides by `divisor`, or if that is 0 by how many numbers its window holds."""

def addition(
    instruction_set: str,
    size: int,
    relu: bool,
    half_input: bool,
    half_output: bool,
    residual: str,
    function: Function = ("", 0.0, 0.0),
) -> Layer: ...
def map(
    instruction_set: str,
    size: int,
    half_input: bool,
    half_output: bool,
    residual: str = "none",
    function: Function = ("", 0.0, 0.0),
) -> Layer:
    """A function of each number, or of its product with the residual's."""

def scale(
    instruction_set: str, channels: int, pixels: int, half_input: bool, half_output: bool, residual: str
) -> Layer:
    """Rows of channels times the residual, one number for each channel of a sample."""

def gather(
    instruction_set: str,
    index: Any,
    inputs: int,
    others: int,
    half_input: bool,
    half_output: bool,
    residual: str = "none",
) -> Layer:
    """Results chosen by place (int32): among the `inputs`, then among the residual's `others`; -1 is zero."""

def normalization(
    instruction_set: str,
    weight: Any,
    bias: Any,
    rows: int,
    epsilon: float,
    half_input: bool,
    half_output: bool,
) -> Layer:
    """Rows as long as the weight, brought to mean 0 and variance 1, times weight plus bias."""

def softmax(instruction_set: str, width: int, rows: int, half_input: bool, half_output: bool) -> Layer: ...
def product(
    instruction_set: str,
    shape: Sequence[int],
    offsets: Sequence[int],
    strides: Sequence[int],
    other_offsets: Sequence[int],
    other_strides: Sequence[int],
    factor: float,
    inputs: int,
    others: int,
    half_input: bool,
    half_output: bool,
    residual: str,
) -> Layer:
    """Products of matrices, `shape` (rows, inner, columns), in the input and the residual; see `plan.Operands`."""

def linear_routines(instruction_set: str) -> list[str]:
    """The routines that `linear` takes, the one that always works first."""

def convolution_routines(
    instruction_set: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    channels: int,
    outputs: int,
) -> list[str]:
    """The routines that `convolution` takes for such a layer, the one that always works first."""

def convert(instruction_set: str, source: Any, target: Any) -> None: ...
def transpose(instruction_set: str, source: Any, target: Any, rows: int, columns: int) -> None: ...
def instruction_sets() -> list[str]: ...
def set_threads(n: int) -> None:
    """Set the largest number of threads; a run uses no more than its calling thread has cores."""

def threads() -> int: ...
def pair_rate(instruction_set: str, seconds: float) -> float: ...
def fma_rate(instruction_set: str, seconds: float) -> float: ...
def conversion_rate(instruction_set: str, seconds: float) -> float: ...
def read_rates(instruction_set: str, n_bytes: Sequence[int], seconds_each: float) -> list[float]: ...
