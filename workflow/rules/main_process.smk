# What the main process does around the jobs. Snakemake knows one block of each kind, so all of it stands here.


onstart:
    begin()
    look_back(STUDY.study, [*artefacts_of_the_study(), manifest("report")])


onsuccess:
    look_back(STUDY.study, [*artefacts_of_the_study(), manifest("report")])
    end()


onerror:
    look_back(STUDY.study, [*artefacts_of_the_study(), manifest("report")])
    end()
