# What the main process does around the jobs. Snakemake knows one block of each kind, so all of it stands here.
if not workflow.is_main_process:
    leave_outputs_marked()
name_code_changes()

ALL_MANIFESTS = [*artefacts_of_the_study(), manifest("report")]
PLANNED_BESIDE = at_work() if workflow.is_main_process else None


onstart:
    begin(
        PLANNED_BESIDE,
        executor=workflow.scheduler._executor,
        code=stage_digests() if workflow.non_local_exec else {},
        specs=STUDY.specs,
    )
    look_back(STUDY.study, ALL_MANIFESTS, for_jobs=True)


onsuccess:
    look_back(STUDY.study, ALL_MANIFESTS)
    if Path(manifest("report")).is_file():
        clear_page(STUDY.study)
    tell_how_to_get_the_page(STUDY.study, workflow.dag)
    end()


onerror:
    look_back(STUDY.study, ALL_MANIFESTS)
    if not was_interrupted():
        leave_page(STUDY.study, STUDY.specs["report"], workflow.dag, workflow.scheduler.failed)
        tell_how_to_get_the_page(STUDY.study, workflow.dag)
    end_in_failure(workflow.scheduler.failed)
