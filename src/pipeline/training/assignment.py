"""Who inverts what."""

from collections.abc import Sequence


def assign(sizes: Sequence[int], n_processes: int) -> list[int]:
    """Deal matrices to processes so that the cubes of their sizes balance.

    Longest processing time first: the largest matrix goes to the process with the least work so far, which
    ends within 4/3 - 1/(3 n_processes) of the best possible makespan [1]. All processes compute the same
    answer.

    Args:
        sizes: The dimension n of each matrix, whose inversion costs n^3.

    Returns:
        The owner of each matrix, in the order of `sizes`.

    References:
        [1] Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 1969, theorem 2.
    """
    load = [0] * n_processes
    owners = [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner = load.index(min(load))
        owners[i] = owner
        load[owner] += sizes[i] ** 3
    return owners
