"""A network in half precision raced against its float32 twin and other engines: sides in turn, medians of samples."""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from _frame import Goal, Quantity, Run
from peers import engines
from peers.engines import Engine, Problem
from torch import Tensor, nn

from pipeline.precision import Budget, HalfNetwork, Roofs, Sampling, _native, measure_roofs
from pipeline.precision.sampling import TimedRun, one_core

TIME = Quantity("time", "µs")
ERROR = Quantity("relative error", "")


@dataclass(frozen=True)
class Case:
    """A module, a batch of inputs, and the half-precision network with measured routines.

    Attributes:
        module: The module that the engines run.
        x: The batch.
        budget: The errors that half precision may cause.
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
    """Turn calls into the sampler's form: functions that run a call so many times and return the seconds."""

    def side(call: Callable[[], object], repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start

    return {name: functools.partial(side, call) for name, call in calls.items()}


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let our routines and torch use `n` threads; a single thread stays on one core."""
    before = _native.threads(), torch.get_num_threads()
    try:
        _native.set_threads(n)
        torch.set_num_threads(n)
        if n == 1:
            with one_core():
                yield
        else:
            yield
    finally:
        _native.set_threads(before[0])
        torch.set_num_threads(before[1])


def medians(
    run: Run, calls: Mapping[str, Callable[[], object]], *, cold: bool = False, n_threads: int = 1
) -> dict[str, float]:
    """Median microseconds of every call, all in turn."""
    sides = sides_of(calls)
    with threads(n_threads):
        if cold:
            swept = torch.ones(measured_roofs().cache_bytes.get("L3", 32 << 20) * 2 // 4 + 1)
            # Ours in torch's order reads the same weights as ours, so they would be warm right after it.
            shared = {name: sides.pop(name) for name in list(sides) if name.endswith("torch's order")}
            taken = sampling(run, cold).cold([sides, shared], chill=swept.sum)
        else:
            taken = sampling(run)(sides)
    return {name: float(np.median(samples.seconds)) * 1e6 for name, samples in taken.items()}


def gain_of_copies(run: Run, network: HalfNetwork, x: Tensor) -> float:
    """Work of two copies over that of one in the same time; each copy has one thread and its own data."""
    n_runs, repeats = (5, 1) if run.quick else (50, 7)
    copies = [whole(deepcopy(network), x) for _ in range(2)]

    def seconds(calls: Sequence[Callable[[], object]]) -> float:
        with ThreadPoolExecutor(len(calls)) as pool:
            start = time.perf_counter()
            list(pool.map(lambda call: [call() for _ in range(n_runs)], calls))
            return time.perf_counter() - start

    with threads(2):
        _native.set_threads(1)
        return statistics.median(2 * seconds(copies[:1]) / seconds(copies) for _ in range(repeats))


@functools.cache
def measured_roofs() -> Roofs:
    return measure_roofs()


def whole(network: HalfNetwork, x: Tensor, *, single: bool = False) -> Callable[[], object]:
    """Return a run of the packed network on buffers of its own, as the other engines have them.

    Images are channels last in these buffers, as everywhere in our networks. An engine that takes images channels first
    but prefers another order converts them in its run; compare such an engine with the row "from and to torch".
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
        run: The run to report to.
        case: The case to race.
        best: Goal over the fastest engine at float32.
        torch_ratio: Goal over torch at float32.
        own: Goal over our own float32 twin.
        onnxruntime: Goal over onnxruntime at float32.
        openvino: Goal over OpenVINO at float32.
        bfloat16: Whether the engines' bfloat16 is raced too, without a goal.
        cold: Whether the caches are swept before each run.
    """
    problem, network = case.problem, case.network
    with one_core():  # as in the race, since an engine chooses its memory format by timing
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
