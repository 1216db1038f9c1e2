import itertools

import pytest

from pipeline.artifacts.results.work import ProcessWork
from pipeline.report.content import Heading, Prose, Table
from pipeline.report.distribution import distribution
from pipeline.report.metrics import Distribution

GIGA = 10**9


def level(process, level, boxes, flops):
    return {
        "process": process, "level": level, "boxes": boxes, "n_bytes": 1000 * boxes, "flops": flops,
        "seconds": flops / GIGA + 0.5, "waiting_seconds": 0.5, "messages": 3, "sent_bytes": 10**6,
    }  # fmt: skip


def process(number):
    return {
        "process": number, "host": f"n{number}", "n_bytes": 10**7, "peak_memory_bytes": 3 * 10**8,
        "predicted_bytes": 5 * 10**8, "seconds": 4.0, "waiting_seconds": 1.0, "messages": 9, "sent_bytes": 10**6,
    }  # fmt: skip


FOUND = {
    "solve": Distribution.model_validate(
        {
            "processes": [process(0), process(1)],
            "levels": [
                level(p, at, boxes, boxes * GIGA // 64) for at, boxes in ((4, 128), (3, 32)) for p in (0, 1)
            ],
        }
    )
}


def tables(found):
    return {block.caption: block for block in distribution(found) if isinstance(block, Table)}


def test_a_matrix_of_unknown_processes_has_nothing_to_show():
    assert distribution({}) == []
    assert distribution({"solve": Distribution(processes=[], levels=[])}) == []


def test_processes_and_levels_are_rows_and_what_was_predicted_stands_beside_what_was_used():
    blocks = distribution(FOUND)
    assert blocks[0] == Heading("Work of each process")
    found = tables(FOUND)
    rows = found["Factorization and solve, process by process"].rows
    assert [row[:2] for row in rows] == [("0", "n0"), ("1", "n1")]
    assert rows[0][3:5] == ("300\N{NO-BREAK SPACE}MB", "500\N{NO-BREAK SPACE}MB")
    levels = found["Factorization and solve, by level and process"].rows
    assert [row[:2] for row in levels] == [("4", "0"), ("4", "1"), ("3", "0"), ("3", "1")]


def test_a_row_of_an_older_version_is_read():
    row = process(0)
    older = {key: value for key, value in row.items() if key != "predicted_bytes"}
    older["foretold_bytes"] = row["predicted_bytes"]
    assert ProcessWork.model_validate(older) == ProcessWork.model_validate(row)


def test_what_levels_of_a_compression_tell_of_messages_is_said():
    compressed = {"compress": FOUND["solve"]}
    table = tables(compressed)["Compression, by level and process"]
    assert "exchanged for the level alone" in table.note
    assert (
        "exchanged for the level alone"
        not in tables(FOUND)["Factorization and solve, by level and process"].note
    )
    assert [row[7] for row in table.rows] == ["3"] * 4


def test_the_model_is_called_one_goes_to_4096_processes_and_starts_from_what_was_measured():
    text = next(block.text for block in distribution(FOUND) if isinstance(block, Prose))
    assert "This is a model and no measurement." in text
    rows = tables(FOUND)["Time with more processes, by the model"].rows
    assert [int(row[0].replace(",", "")) for row in rows] == [1, 2, 4, 16, 64, 256, 1024, 4096]
    # Two processes did 160 boxes each, at 64 a second; the levels above them cost what the uppermost known one did.
    assert rows[1][1].value == pytest.approx(160 / 64, rel=0.2)
    efficiencies = [row[3].value for row in rows]
    assert efficiencies[0] == 1
    assert all(0 < later <= earlier for earlier, later in itertools.pairwise(efficiencies))
    # Each process took its operations' time and half a second of waiting on each of two levels.
    assert [row[2].value for row in rows if row[2].value is not None] == [pytest.approx(160 / 64 + 1)]


def test_the_model_names_its_time_as_modeled_and_says_what_it_leaves_out():
    table = tables(FOUND)["Time with more processes, by the model"]
    assert [column.title for column in table.columns[:3]] == ["Processes", "Modeled time", "Measured"]
    assert "The whole factorization takes longer" in table.note
