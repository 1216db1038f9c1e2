"""Which process inverts which matrices, and what it sends to the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.training.passes import Key


def assign(costs: Sequence[float], n_processes: int) -> list[int]:
    """Assign pieces of work to processes so that their loads balance.

    Longest processing time first: pieces go, largest first, to the process with the least work so far. The makespan is
    at most 4/3 - 1/(3 n_processes) times the best possible one [1]. All processes compute the same answer.

    Args:
        costs: The cost of each piece; n^3 for the inversion of a matrix of n rows.

    Returns:
        The owner of each piece, in the order of `costs`.

    References:
        [1] Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 1969, theorem 2.
    """
    load = [0.0] * n_processes
    owners = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner = load.index(min(load))
        owners[i] = owner
        load[owner] += costs[i]
    return owners


@dataclass(frozen=True)
class Placement:
    """What each process does with the matrices of a network.

    Attributes:
        owners: The process that inverts each matrix; None if every process inverts all.
        preconditioners: The process that computes a layer's natural gradient and sends it to the others; every process
            computes those of missing layers.
    """

    owners: Mapping[Key, int] | None
    preconditioners: Mapping[str, int]


def place(
    shapes: Mapping[Key, tuple[int, ...]],
    n_weights: Mapping[str, int],
    *,
    placement: str,
    inverse_interval: int,
    n_processes: int,
) -> Placement:
    """Place matrices on processes.

    "replicate": every process inverts all matrices, so only statistics are sent. "memory": one process keeps all
    matrices of a layer and sends its natural gradient in every step. "hybrid": as "memory" for layers whose natural
    gradient, sent in every step, is smaller than the inverses, sent every `inverse_interval` steps; the matrices of
    other layers are assigned one by one, and their inverses go to all processes.

    Args:
        shapes: The shapes of all matrices.
        n_weights: Number of weights of each layer, its bias included.
    """
    if placement == "replicate":
        return Placement(None, {})
    keys_of: dict[str, list[Key]] = {}
    for key in shapes:
        keys_of.setdefault(key[0], []).append(key)
    n_inverse = {
        name: sum(n_packed(shapes[key]) for key in keys) / inverse_interval for name, keys in keys_of.items()
    }
    whole = [name for name in keys_of if placement == "memory" or n_weights[name] < n_inverse[name]]
    pieces = [keys_of[name] for name in whole]
    pieces += [[key] for name, keys in keys_of.items() if name not in whole for key in keys]
    costs = [float(sum(count(shapes[key]) * shapes[key][-1] ** 3 for key in piece)) for piece in pieces]
    dealt = assign(costs, n_processes)
    owners = {key: owner for piece, owner in zip(pieces, dealt, strict=True) for key in piece}
    return Placement({key: owners[key] for key in shapes}, {name: owners[keys_of[name][0]] for name in whole})


def count(shape: Sequence[int]) -> int:
    """How many matrices a stack of this shape holds."""
    return shape[0] if len(shape) == 3 else 1


def n_packed(shape: Sequence[int]) -> int:
    """How many numbers the triangles of symmetric matrices of this shape hold."""
    return count(shape) * shape[-1] * (shape[-1] + 1) // 2
