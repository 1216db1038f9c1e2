"""Graphs of native layers, sums of activations, and threads."""

import os
import threading
from contextlib import suppress

import pytest
import torch

from pipeline.precision import _native


@pytest.fixture
def two_threads():
    before, cores = _native.threads(), os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("this process has one core")
    _native.set_threads(2)
    yield
    _native.set_threads(before)


def identity(n_inputs, n_outputs, *, half_input=False, half_output=False, residual="none", relu=False):
    weight = torch.eye(n_outputs, n_inputs)
    ones, zeros = torch.ones(n_outputs), torch.zeros(n_outputs)
    return _native.linear("portable", weight, ones, zeros, relu, half_input, half_output, residual)


@pytest.mark.parametrize("residual", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_sum_is_rounded_once(instruction_set, dtype, residual, generator):
    for n in (1, 15, 16, 17, 97):
        x = torch.randn(3, n, generator=generator).to(dtype)
        other = torch.randn(3, n, generator=generator).to(residual)
        for half_output in (False, True):
            layer = _native.addition(
                instruction_set,
                n,
                True,
                dtype == torch.float16,
                half_output,
                str(residual).removeprefix("torch."),
            )
            y = torch.empty(3, n, dtype=torch.float16 if half_output else torch.float32)
            assert layer.run(x, y, other) == 0
            assert torch.equal(y, (x.float() + other.float()).relu().to(y.dtype))


def test_a_sum_saturates_counts_and_passes_not_a_number_on(instruction_set):
    x = torch.tensor([[6e4, -6e4, float("nan"), 1.0, float("inf")]])
    layer = _native.addition(instruction_set, 5, False, False, True, "float32")
    y = torch.empty(1, 5).half()
    assert layer.run(x, y, x.clone()) == 3
    assert y.nan_to_num(7).tolist() == [[65504, -65504, 7, 2, 65504]]


def test_a_network_passes_results_on_in_their_own_storage(generator):
    steps = [(identity(4, 3, half_output=True), 0, -1), (identity(3, 2, half_input=True), 1, -1)]
    x, y = torch.randn(5, 4, generator=generator), torch.empty(5, 2)
    network = _native.Network(steps, 5)
    network.run(x, y)
    assert torch.equal(y, x[:, :2].half().float())
    assert len(network.seconds_per_step(x, y)) == 2


def test_values_live_until_their_last_reader_and_their_memory_serves_again(generator):
    """y = 3 x + (x + x) through a long way round, so that buffers are handed on while an early value waits."""
    add = _native.addition("portable", 7, False, False, False, "float32")
    same = identity(7, 7)
    steps = [(same, 0, -1), (add, 1, 0), *((same, 2 + i, -1) for i in range(6)), (add, 8, 1), (add, 9, 2)]
    network = _native.Network(steps, 4)
    x, y = torch.randn(4, 7, generator=generator), torch.empty(4, 7)
    network.run(x, y)
    torch.testing.assert_close(y, 5 * x)
    alone = _native.Network([(same, 0, -1), (same, 1, -1)], 4)
    assert network.buffer_bytes <= alone.buffer_bytes + 3 * y.nbytes


def test_a_network_refuses_steps_that_do_not_fit_and_batches_beyond_its_buffers():
    with pytest.raises(ValueError, match="step 1 does not take what value 1 is"):
        _native.Network([(identity(4, 3), 0, -1), (identity(2, 2), 1, -1)], 5)
    with pytest.raises(ValueError, match="step 1 does not take what value 1 is"):
        _native.Network([(identity(4, 3, half_output=True), 0, -1), (identity(3, 2), 1, -1)], 5)
    with pytest.raises(ValueError, match="step 0 reads a value that no step before it gives"):
        _native.Network([(identity(4, 4), 1, -1)], 5)
    with pytest.raises(ValueError, match="step 1 has a residual where its layer takes none, or none"):
        _native.Network([(identity(4, 4), 0, -1), (identity(4, 4, residual="float32"), 1, -1)], 5)
    with pytest.raises(ValueError, match="step 1 cannot add value 0"):
        _native.Network([(identity(4, 3), 0, -1), (identity(3, 3, residual="float32"), 1, 0)], 5)
    with pytest.raises(ValueError, match="a batch of 6 for a network that takes 5"):
        _native.Network([(identity(4, 3), 0, -1)], 5).run(torch.zeros(6, 4), torch.empty(6, 3))
    with pytest.raises(ValueError, match="has steps"):
        _native.Network([], 5)


def test_a_residual_is_asked_for_and_checked():
    layer = identity(4, 4, residual="float32")
    x, y = torch.ones(2, 4), torch.empty(2, 4)
    with pytest.raises(ValueError, match="adds a residual; give it one"):
        layer.run(x, y)
    with pytest.raises(ValueError, match="residual has 4 numbers for a batch of 2, wanted 4 each"):
        layer.run(x, y, torch.ones(1, 4))
    with pytest.raises(TypeError, match="residual is to be float32"):
        layer.run(x, y, torch.ones(2, 4).half())
    with pytest.raises(ValueError, match="adds no residual, but one was given"):
        identity(4, 4).run(x, y, x)
    with pytest.raises(ValueError, match="'none', 'float16' or 'float32', found 'int8'"):
        identity(4, 4, residual="int8")


def layers(isa, half, generator):
    """One layer for each routine."""
    dtype = torch.float16 if half else torch.float32
    for routine in _native.linear_routines(isa):
        weight = torch.randn(70, 1100, generator=generator).to(dtype)
        yield _native.linear(isa, weight, torch.ones(70), torch.zeros(70), False, half, half, routine=routine)
    for groups, kernel in [(1, 3), (1, 1), (2, 3), (34, 3)]:
        arguments = {"kernel": (kernel, kernel), "stride": (1, 1), "dilation": (1, 1), "groups": groups}
        for routine in _native.convolution_routines(isa, *arguments.values(), 34, 34):
            weight = torch.randn(34, 34 // groups * kernel**2, generator=generator).to(dtype)
            yield _native.convolution(
                isa, weight, torch.ones(34), torch.zeros(34), False, half, half, image=(34, 11, 13),
                padding=(kernel // 2, kernel // 2), routine=routine, **arguments,
            )  # fmt: skip
    bounds = {"row_start": [0, 2, 4], "row_end": [2, 5, 6], "column_start": [0, 1], "column_end": [2, 5]}
    yield _native.pooling(
        isa, (17, 6, 5), **bounds, average=True, relu=False, half_input=half, half_output=half
    )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 67])
def test_results_do_not_depend_on_the_number_of_threads(instruction_set, half, batch, two_threads, generator):
    for layer in layers(instruction_set, half, generator):
        dtype = torch.float16 if half else torch.float32
        x = torch.randn(batch, layer.input_size, generator=generator).to(dtype)
        found = []
        for n_threads in (1, 2):
            _native.set_threads(n_threads)
            y = torch.full((batch, layer.output_size), 9, dtype=dtype)
            layer.run(x, y)
            found.append(y)
        assert torch.equal(*found), layer.routine(batch)


def cores_of_workers():
    """The cores of each other thread of this process; those of an earlier test may end while they are listed."""
    found = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            found[thread] = os.sched_getaffinity(thread)
    del found[threading.get_native_id()]
    return found


def test_a_caller_that_is_held_on_one_core_runs_alone(two_threads, generator):
    """A worker that took part would have moved to the caller's core."""
    x, y = torch.randn(256, 300, generator=generator), torch.empty(256, 300)
    layer = identity(300, 300)
    layer.run(x, y)
    cores = os.sched_getaffinity(0)
    before = cores_of_workers()
    assert cores in before.values()
    try:
        os.sched_setaffinity(0, {min(cores)})
        layer.run(x, y.zero_())
        assert {worker: os.sched_getaffinity(worker) for worker in before} == before
    finally:
        os.sched_setaffinity(0, cores)
    assert torch.equal(x, y)


def took_part(run):
    """Whether a worker worked on a run: one on other cores than the caller's would have moved to these."""
    cores = os.sched_getaffinity(0)
    before = cores_of_workers()
    try:
        for worker in before:
            os.sched_setaffinity(worker, {min(cores)})
        run()
        return any(os.sched_getaffinity(worker) == cores for worker in before)
    finally:
        for worker, its_cores in before.items():
            os.sched_setaffinity(worker, its_cores)


@pytest.mark.parametrize(("n_channels", "size", "batch", "wanted"), [(16, 4, 1, False), (64, 32, 64, True)])
def test_layers_without_panels_wake_a_thread_only_for_work_that_is_worth_it(
    two_threads, instruction_set, n_channels, size, batch, wanted
):
    half = {"half_input": True, "half_output": True}
    image = (n_channels, size, size)
    n = n_channels * size**2
    starts = list(range(0, size, 2))
    ends = [start + 2 for start in starts]
    windows = {"row_start": starts, "row_end": ends, "column_start": starts, "column_end": ends}
    x = torch.ones(batch, n).half()
    depthwise = _native.convolution(
        instruction_set, torch.ones(n_channels, 9).half(), torch.ones(n_channels), torch.zeros(n_channels), False, True,
        True, image=image, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=n_channels,
        routine="depthwise",
    )  # fmt: skip
    pooling = _native.pooling(instruction_set, image, **windows, average=True, relu=False, **half)
    addition = _native.addition(instruction_set, n, False, True, True, "float16")
    warm = torch.ones(256, 300)
    identity(300, 300).run(warm, warm.clone())  # so that the pool has its workers
    for layer, residual in ((depthwise, None), (pooling, None), (addition, x)):
        y = torch.empty(batch, layer.output_size).half()
        assert took_part(lambda layer=layer, y=y, residual=residual: layer.run(x, y, residual)) == wanted


def test_the_workers_follow_the_callers_set_of_cores(two_threads, generator):
    x, y = torch.randn(256, 300, generator=generator), torch.empty(256, 300)
    layer = identity(300, 300)
    layer.run(x, y)
    assert took_part(lambda: layer.run(x, y.zero_()))
    assert torch.equal(x, y)


def test_an_unknown_routine_is_refused_with_a_word_on_what_there_is():
    arguments = ("portable", torch.ones(2, 4), torch.ones(2), torch.zeros(2), False, False, False)
    with pytest.raises(ValueError, match="'portable' has no routine 'guess' for a linear layer"):
        _native.linear(*arguments, routine="guess")
