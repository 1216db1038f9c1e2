"""What this program mends in Snakemake's executor for Slurm."""

import sys
from typing import Any


def mend_executor() -> None:
    """Have Snakemake's executor for Slurm see that a person has cancelled a job.

    sacct then says "CANCELLED by 1000", which the executor takes for the state of a job that still runs: the main
    process would wait for it for ever.
    """
    executor: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    if executor is None:
        return
    ask = executor.query_job_status

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await ask(command, logger)
        if states is not None:
            states = {job: state.partition(" by ")[0] for job, state in states.items()}
        return states, seconds

    executor.query_job_status = query_job_status
