# What the main process does around the jobs. Snakemake knows one block of each kind, so all of it stands here.


onstart:
    # The name of Slurm's jobs is made by its executor; others have none.
    begin(jobs=getattr(workflow.scheduler._executor, "run_uuid", ""))
    look_back(STUDY.study, [*artefacts_of_the_study(), manifest("report")])


onsuccess:
    look_back(STUDY.study, [*artefacts_of_the_study(), manifest("report")])
    end()


onerror:
    look_back(STUDY.study, [*artefacts_of_the_study(), manifest("report")])
    end()
