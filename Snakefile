# One study from raw data to report. Start with `make run`, or `snakemake --cores all --configfile config/tiny.yaml`.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/main_process.smk"
include: "workflow/rules/spec.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/precision.smk"
include: "workflow/rules/hmatrix.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"results/{STUDY.study}/report/index.html",
        # Named though the report needs them all: a deleted one is then made again, not just missed by the next change.
        artefacts_of_the_study(),
        manifest("report"),
