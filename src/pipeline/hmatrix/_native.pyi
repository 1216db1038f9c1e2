"""Types of the native routines (native/module.cpp). Classes and functions that exist once per stored type carry its
name as a suffix and are looked up by it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

class Tree:
    def __init__(
        self,
        level_start: NDArray[np.int32],
        start: NDArray[np.int32],
        stop: NDArray[np.int32],
        parent: NDArray[np.int32],
        first_child: NDArray[np.int32],
        lower: NDArray[np.float64],
        upper: NDArray[np.float64],
        arity: int,
    ) -> None: ...

class KernelMatrix:
    def __init__(
        self,
        targets: NDArray[np.float64],
        sources: NDArray[np.float64],
        steps: list[tuple[int, list[float], list[float]]],
        function: Any,
    ) -> None: ...
    @property
    def calls_python(self) -> bool: ...
    def keep(
        self, first: int, last: int, others: NDArray[np.int32], as_targets: bool, as_sources: bool
    ) -> None: ...
    def correct(
        self,
        start: NDArray[np.int64],
        columns: NDArray[np.int32],
        values: NDArray[np.complex128],
        transposed_start: NDArray[np.int64],
        transposed_columns: NDArray[np.int32],
        transposed_values: NDArray[np.complex128],
    ) -> None: ...

def sample_far(
    own: Tree,
    other: Tree,
    far_start: NDArray[np.int64],
    far_boxes: NDArray[np.int32],
    boxes: NDArray[np.int32],
    rows: float,
    round: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64], NDArray[np.uint8]]: ...
def sampled_outside(
    own: Tree,
    other: Tree,
    far_start: NDArray[np.int64],
    far_boxes: NDArray[np.int32],
    boxes: NDArray[np.int32],
    rows: float,
    round: int,
    first: int,
    last: int,
) -> NDArray[np.int32]: ...
def release_memory() -> None: ...
def bisect(points: NDArray[np.float64], depth: int, threads: int = 1) -> NDArray[np.int32]: ...
def symmetric_means(
    targets: NDArray[np.float64],
    sources: NDArray[np.float64],
    coordinates: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]: ...
def instruction_sets() -> list[str]: ...
def run_loops(
    set: int,
    kind: int,
    parameters: list[float],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    v: NDArray[np.float64],
    u: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
def run_edges(
    set: int,
    length: NDArray[np.float64],
    lower: NDArray[np.float64],
    t: NDArray[np.float64],
    height: NDArray[np.float64],
) -> NDArray[np.float64]: ...
def product(
    row_tree: Tree,
    column_tree: Tree,
    row_basis: Any,
    column_basis: Any,
    near: Any,
    far: Any,
    mirrored: bool,
    transposed: bool,
    x: NDArray[Any],
    m: int,
    parts: int,
    threads: int,
) -> NDArray[Any]: ...
def sweep(steps: list[Any], kind: int, way: int, x: NDArray[Any], m: int) -> None: ...

class Watch:
    def __init__(self, progress: Any, total: int) -> None: ...
    def stop(self) -> None: ...

class Stopped(Exception): ...

def rise(
    tree: Tree, basis: Any, boxes: NDArray[np.int32], x: NDArray[Any], coefficients: NDArray[Any], m: int
) -> None: ...
def descend(
    tree: Tree, basis: Any, boxes: NDArray[np.int32], coefficients: NDArray[Any], y: NDArray[Any], m: int
) -> None: ...
def add_blocks(
    blocks: Any,
    mirrored: bool,
    taken: NDArray[np.int64],
    widths: NDArray[np.int32],
    x: NDArray[Any],
    given: NDArray[np.int64],
    heights: NDArray[np.int32],
    y: NDArray[Any],
    m: int,
) -> None: ...
