"""A matrix among processes: what each held, did and waited for, level by level, and a model for more processes."""

import math
from collections.abc import Mapping, Sequence

from pipeline.artifacts.results.work import LevelWork, ProcessWork
from pipeline.report import formatting as f
from pipeline.report.content import Block, Column, Heading, Prose, Table
from pipeline.report.metrics import Distribution

_WAITING = {
    "compress": "Time: the time to build bases. Waiting, messages and sent: what is exchanged for the level alone. "
    "What is exchanged for all levels at once counts only in the sums of the processes.",
    "solve": "Waiting: the part of the time in which the process waited for others, while it factorized and solved.",
}
STAGES = {"compress": "Compression", "solve": "Factorization and solve"}
LATENCY, BANDWIDTH = 5e-6, 5e9  # of the model: seconds per message, bytes per second
_BOXES = 4  # levels with fewer boxes per process gather the boxes of several processes on one of them
_PROCESSES = (1, 4, 16, 64, 256, 1024, 4096)


def distribution(found: Mapping[str, Distribution], beside: str = "") -> list[Block]:
    """Show the processes of a matrix and their levels, stage by stage, and the model; nothing where none is known.

    ``beside`` is the sentence that marks times measured beside other jobs.
    """
    tables: list[Block] = [
        table
        for stage, title in STAGES.items()
        if stage in found
        for table in (
            _processes(title, found[stage].processes, beside),
            _levels(title, found[stage].levels, f.sentences(_WAITING[stage], beside)),
        )
        if table
    ]
    if not tables:
        return []
    model = _model(found["solve"].processes, found["solve"].levels, beside) if "solve" in found else []
    return [Heading("Work of each process"), *tables, *model]


def _processes(title: str, rows: Sequence[ProcessWork], beside: str) -> Table:
    return Table(
        f"{title}, process by process",
        (
            "Process", Column("Node"), "Holds", "Peak memory", "Predicted", "Time", "Waiting", "Messages", "Sent",
        ),
        [
            (
                f.count(row.process), row.host, f.n_bytes(row.n_bytes),
                f.n_bytes(row.peak_memory_bytes), f.n_bytes(row.predicted_bytes),
                f.seconds(row.seconds), f.seconds(row.waiting_seconds), f.count(row.messages),
                f.n_bytes(row.sent_bytes),
            )
            for row in rows
        ],
        f.sentences(
            "Holds: what the process keeps of the matrix. Peak memory: that of the whole program. Predicted: the "
            "memory predicted before the job began, from the points, the tolerance and the dimension. Time: for a "
            "solution, that of assembly, factorization and solves together. Waiting: the part of the time in which the "
            "process waited for others.",
            beside,
        ),
    )  # fmt: skip


def _levels(title: str, rows: Sequence[LevelWork], waiting: str) -> Table:
    return Table(
        f"{title}, by level and process",
        ("Level", Column("Process"), "Boxes", "Holds", "Operations", "Time", "Waiting", "Messages", "Sent"),
        [
            (
                f.count(row.level), f.count(row.process), f.count(row.boxes),
                f.n_bytes(row.n_bytes), f.scientific(row.flops), f.seconds(row.seconds),
                f.seconds(row.waiting_seconds), f.count(row.messages), f.n_bytes(row.sent_bytes),
            )
            for row in sorted(rows, key=lambda row: (-row.level, row.process))
        ],
        f"Operations: floating-point operations, counted. {waiting}",
        fold=True,
    )  # fmt: skip


def _model(processes: Sequence[ProcessWork], levels: Sequence[LevelWork], beside: str) -> list[Block]:
    """Model the time of more processes with as many points each, from operations, latency and bandwidth."""
    flops, busy = sum(row.flops for row in levels), sum(row.seconds - row.waiting_seconds for row in levels)
    own = [[row for row in levels if row.level == level] for level in {row.level for row in levels}]
    # From the leaves upwards, levels with boxes only.
    own = sorted((rows for rows in own if any(row.boxes for row in rows)), key=lambda rows: -rows[0].level)
    if not own or not processes or busy <= 0 or flops <= 0:
        return []
    measured, rate = len(processes), flops / busy
    boxes = [sum(row.boxes for row in rows) for rows in own]
    cost = [sum(row.flops for row in rows) / n for rows, n in zip(own, boxes, strict=True)]
    most_sent = [max(row.sent_bytes for row in rows) for rows in own]
    messages = [max(row.messages for row in rows) for rows in own]
    leaves = boxes[0] / measured
    arity = 4.0 if len(boxes) < 2 else max(boxes[0] / boxes[1], 2.0)

    def seconds(n_processes: int) -> tuple[float, float]:
        """Return seconds of operations and of messages."""
        count, height, work, talk = leaves * n_processes, 0, 0.0, 0.0
        while count >= 1:
            known = min(height, len(cost) - 1)
            active = max(min(n_processes, count / _BOXES), 1.0)
            work += count / active * cost[known] / rate
            if n_processes > 1:
                # The boxes at a process's border grow with the square root of its number of boxes.
                share = math.sqrt(count / active / max(leaves / arity**known, 1.0))
                talk += max(messages[known], 1.0) * LATENCY + most_sent[known] * share / BANDWIDTH
            count, height = count / arity, height + 1
        return work, talk

    alone = sum(seconds(1))
    took = max(sum(row.seconds for row in levels if row.process == process.process) for process in processes)
    modeled = {n_processes: seconds(n_processes) for n_processes in sorted({*_PROCESSES, measured})}
    text = (
        "How long would the factorization take with more processes, each with as many points as here? This is a model "
        f"and no measurement. It takes the operations that a box needs on each level, {f.scientific(rate)} operations "
        f"a second as measured here, {LATENCY * 1e6:g} µs for a message and {BANDWIDTH / 1e9:g} GB/s. It does not "
        "count the time in which boxes between two processes wait for their turn."
    )
    note = (
        "Modeled time: operations and messages of the tree's levels alone. Measured: what these levels took "
        "in the factorization, with the waiting that the model does not count. The whole factorization takes longer, "
        "because it also divides the points and measures the result."
    )
    return [
        Prose(text, quiet=True),
        Table(
            "Time with more processes, by the model",
            ("Processes", "Modeled time", "Measured", "Efficiency", "Share of messages"),
            [
                (
                    f.count(n_processes), f.seconds(work + talk),
                    f.seconds(took if n_processes == measured else None),
                    f.percent(alone / (work + talk), 0), f.percent(talk / (work + talk), 1),
                )
                for n_processes, (work, talk) in modeled.items()
            ],
            f.sentences(note, beside),
        ),
    ]  # fmt: skip
