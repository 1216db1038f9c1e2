# The main process's work around the jobs. Snakemake takes only one block of each kind, so all of it is here.
if not workflow.is_main_process:
    leave_outputs_marked()
name_code_changes()
look_at_most_once_a_second()

ALL_MANIFESTS = {study: [*artefacts(study), manifest("report", study)] for study in STUDIES}
PLANNED_BESIDE = at_work() if workflow.is_main_process else None


onstart:
    begin(
        PLANNED_BESIDE,
        executor=workflow.scheduler._executor,
        code=stage_digests() if workflow.non_local_exec else {},
        specs=[study.specs for study in STUDIES.values()],
    )
    for study, manifests in ALL_MANIFESTS.items():
        look_back(study, manifests, for_jobs=True)


onsuccess:
    for study, manifests in ALL_MANIFESTS.items():
        look_back(study, manifests)
        if Path(manifest("report", study)).is_file():
            clear_page(study)
    tell_how_to_get_the_page(STUDY.study, workflow.dag)
    end()


onerror:
    for study, manifests in ALL_MANIFESTS.items():
        look_back(study, manifests)
    if not was_interrupted():
        for study, found in STUDIES.items():
            leave_page(study, found.specs["report"], workflow.dag, workflow.scheduler.failed)
        tell_how_to_get_the_page(STUDY.study, workflow.dag)
    end_in_failure(workflow.scheduler.failed)
