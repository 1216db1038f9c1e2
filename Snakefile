# The entry of a checkout: `make run`, or `snakemake --cores all --configfile config/tiny.yaml`.
include: "workflow/Snakefile"
