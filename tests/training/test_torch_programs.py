"""Process groups that torch has opened, weights in pieces, and compiled networks."""

import os
from pathlib import Path
from types import SimpleNamespace

import ddp_loops
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from warm_starts import run_python

from pipeline.errors import DivergenceError
from pipeline.runtime.collectives import ProcessGroup
from pipeline.runtime.communicator import Serial, run_in_threads
from pipeline.training import KFAC, KFACSettings
from pipeline.training.processes import detected, require_all, unwrapped

# Losses whose gradients are known in closed form, such as sums of squares, are not recognized.
pytestmark = pytest.mark.filterwarnings("ignore:K-FAC does not recognize this loss")

ALL = KFACSettings(factor_interval=1, inverse_interval=1, sample_fraction=1.0, damping=0.1)


@pytest.fixture
def group_of_one(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def batch(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(12, 4, generator=rng), torch.randint(3, (12,), generator=rng)


def test_sharded_weights_are_refused_by_name(group_of_one):
    from torch.distributed.fsdp import (
        fully_shard,
    )  # takes a second, which every process of the tests would spend

    model = network()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    with pytest.raises(
        ValueError, match=r"parameter 0\.weight is a DTensor, as fully_shard .* DistributedDataParallel"
    ):
        KFAC(model)


def test_one_process_needs_no_messages_and_a_wrapped_network_is_looked_into(group_of_one):
    model = network()
    wrapped = DistributedDataParallel(model)
    assert isinstance(detected(wrapped), Serial)
    assert unwrapped(wrapped) is model
    assert KFAC(wrapped).preconditioned == ("0", "2")


def test_more_processes_are_found_and_so_is_a_group_of_some(group_of_one, monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    assert detected(network()) == ProcessGroup(None)
    model = DistributedDataParallel(network())
    assert detected(model) == ProcessGroup(model.process_group)


@pytest.mark.parametrize("of_group", [False, True])
def test_messages_of_a_process_group_are_those_of_one_process(group_of_one, of_group):
    group = ProcessGroup(dist.new_group([0]) if of_group else None)
    x = torch.arange(3.0)
    group.all_reduce(x)
    group.reduce(x, 0)
    group.broadcast(x, 0)
    group.barrier()
    assert torch.equal(x, torch.arange(3.0))
    assert torch.equal(group.all_gather(x)[0], x)
    assert torch.equal(group.exchange({0: x})[0], x)
    assert (group.rank, group.size) == (0, 1)


def test_gradients_that_differ_between_processes_are_refused_at_the_first_step():
    def work(communicator):
        model = network()
        kfac = KFAC(model, ALL, communicator=communicator)
        x, y = batch(communicator.rank)
        cross_entropy(model(x), y).backward()
        kfac.step(0.1)

    with pytest.raises(ValueError, match="processes hold different gradients at K-FAC's first step"):
        run_in_threads(2, work)


def test_loops_of_two_processes_train_as_one_process_does(tmp_path):
    script = Path(ddp_loops.__file__)
    processes = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    done = run_python(processes, folder=tmp_path, environment={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout
    assert f"{len(ddp_loops.LOOPS)} loops agree with one process" in done.stdout


def test_a_group_that_is_opened_after_attaching_is_an_error(request, monkeypatch):
    model = network()
    kfac = KFAC(model, ALL)
    alone = KFAC(network(), ALL, communicator=Serial())
    request.getfixturevalue("group_of_one")
    kfac.step(0.1)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    with pytest.raises(ValueError, match="attach it after init_process_group, or pass"):
        kfac.step(0.1)
    alone.step(0.1)


def test_processes_that_could_be_left_alone_are_refused(group_of_one):
    model = DistributedDataParallel(network())
    kfac = KFAC(model, ALL, communicator=SimpleNamespace(rank=0, size=2))
    with (
        model.join(),
        pytest.raises(ValueError, match=r"step needs all processes, and join\(\) lets some go on"),
    ):
        kfac.step(0.1)
    with model.join(throw_on_early_termination=True):
        require_all(model)


def test_bad_numbers_that_all_processes_hold_are_not_taken_for_different_gradients():
    def work(communicator):
        model = network()
        kfac = KFAC(model, ALL, communicator=communicator)
        x, y = batch(0)
        x[0] = torch.nan
        cross_entropy(model(x), y).backward()
        kfac.step(0.1)

    with pytest.raises(DivergenceError, match="is not finite at step 1"):
        run_in_threads(2, work)


torchs_own_warnings_ignored = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"
)


@torchs_own_warnings_ignored
@pytest.mark.skipif(" " in torch.__file__, reason="torch's compiler does not quote paths that hold a space")
def test_compiled_networks_and_compiled_steps_train_as_they_do_uncompiled():
    from torch._inductor import config as of_kernels

    torch._dynamo.reset()
    found = []
    # Kernels of one number at a time need no trial compilations, and two of them no other processes.
    plain = {"compile_threads": 1, "cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": False}
    for how in ("eager", "network", "step"):
        model = network()
        called = torch.compile(model, backend="aot_eager") if how == "network" else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        kfac = KFAC(called, KFACSettings(**(vars(ALL) | {"factor_interval": 2})))

        def step(x, y, called=called, kfac=kfac, optimizer=optimizer):
            optimizer.zero_grad()
            cross_entropy(called(x), y).backward()
            kfac.step(0.1)
            optimizer.step()

        # A whole step holds the network, so its kernels are compiled there.
        whole = torch.compile(step) if how == "step" else step
        with of_kernels.patch(plain):
            for seed in range(4):
                whole(*batch(seed))
        assert kfac.terms.source == "softmax cross-entropy"
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for compiled in found[1:]:
        # Fused kernels round otherwise: a few units in each of four steps.
        torch.testing.assert_close(compiled, found[0], rtol=1e-4, atol=1e-5)


def compiled_step(model, kfac):
    """A step whose first part, until the backward pass, is the same code with and without K-FAC."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batch(0)

    def step():
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        if kfac is not None:
            kfac.step(0.1)
        optimizer.step()

    return torch.compile(step, backend="eager")


@torchs_own_warnings_ignored
@pytest.mark.parametrize("same", [True, False])
def test_code_that_was_compiled_before_the_network_is_watched_tells_of_its_passes(same):
    torch._dynamo.reset()
    former = network()
    compiled_step(former, None)()
    model = former if same else network()
    kfac = KFAC(model, ALL)
    compiled_step(model, kfac)()
    assert {"factor/A/0", "factor/G/2"} <= set(kfac.state_dict()["tensors"])


@torchs_own_warnings_ignored
def test_attaching_and_removing_discard_the_compiled_code_of_other_networks_too():
    torch._dynamo.reset()
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    other, x = torch.compile(network(), backend=backend), batch()[0]
    for _ in range(2):
        other(x)
    assert len(compiled) == 1
    kfac = KFAC(network(), ALL)
    other(x)
    assert len(compiled) == 2
    kfac.remove()
    other(x)
    assert len(compiled) == 3


class Sequences(nn.Module):
    """Attention and a recurrence, which apply their weights by functions."""

    def __init__(self):
        super().__init__()
        self.attention, self.recurrence = nn.MultiheadAttention(4, 2), nn.GRU(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.recurrence(self.attention(x, x, x)[0])[0][-1])


@torchs_own_warnings_ignored
def test_compiled_attention_and_recurrences_tell_as_they_do_uncompiled():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x, y = Sequences(), torch.randn(5, 6, 4), torch.arange(6) % 3
    tensors = []
    for compiled in (False, True):
        kfac = KFAC(model, ALL)
        called = torch.compile(model, backend="eager") if compiled else model
        model.zero_grad()
        cross_entropy(called(x), y).backward()
        kfac.step(0.1)
        tensors.append(kfac.state_dict()["tensors"])
        kfac.remove()
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        torch.testing.assert_close(tensors[1][name], tensor)
