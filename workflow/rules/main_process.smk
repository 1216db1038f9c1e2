# What the main process does around the jobs. Snakemake knows one block of each kind, so all of it stands here.
from snakemake.persistence.file import FilePersistence

# The main process records what an output was made from when its job has ended. If it was killed before, nobody could
# tell later whether the output is stale: so a job leaves it marked as incomplete, to be made again, and only a living
# main process takes the mark off.
if not hasattr(FilePersistence, "_unmark_incomplete"):
    raise AttributeError(
        "this version of Snakemake marks incomplete outputs in another way; use the pinned one"
    )
if not workflow.is_main_process:
    FilePersistence._unmark_incomplete = lambda self, key: None


ALL_MANIFESTS = [*artefacts_of_the_study(), manifest("report")]
PLANNED_BESIDE = at_work() if workflow.is_main_process else None


onstart:
    # The name of Slurm's jobs is made by its executor; others have none.
    begin(
        PLANNED_BESIDE,
        jobs=getattr(workflow.scheduler._executor, "run_uuid", ""),
        code=stage_digests() if workflow.non_local_exec else {},
    )
    look_back(STUDY.study, ALL_MANIFESTS, for_jobs=True)


onsuccess:
    look_back(STUDY.study, ALL_MANIFESTS)
    end()


onerror:
    look_back(STUDY.study, ALL_MANIFESTS)
    end()
