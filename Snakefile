# The entry of a checkout: `make run`, or `snakemake --cores all --configfile config/tiny.yaml`.
include: "workflow/Snakefile"


# Snakemake forgets the default target of a file that another one includes.
workflow.default_target = "all"
