import asyncio
import sys
from types import SimpleNamespace

from pipeline.runtime.executor import mend_executor


def test_the_executor_sees_what_a_person_has_cancelled(monkeypatch):
    answers = [({"1": "CANCELLED by 1000", "2": "RUNNING"}, 0.1), (None, None)]

    async def ask(command, logger):
        return answers.pop(0)

    executor = SimpleNamespace(query_job_status=ask)
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_slurm", executor)
    mend_executor()
    assert asyncio.run(executor.query_job_status("sacct", None)) == ({"1": "CANCELLED", "2": "RUNNING"}, 0.1)
    assert asyncio.run(executor.query_job_status("sacct", None)) == (None, None)


def test_without_the_executor_there_is_nothing_to_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_slurm", None)
    mend_executor()
