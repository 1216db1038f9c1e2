# The entry of a checkout: `make run`, or `snakemake --cores all --configfile config/tiny.yaml`.
include: "workflow/Snakefile"


# Snakemake does not take over from an included file what is made by default.
workflow.default_target = "all"
