"""The progress of a whole study, drawn in a terminal or told line by line, from Snakemake's events and jobs' logs.

Both are the same for jobs on this machine and on a cluster: events come from the main process, logs lie on the file
system that all share.
"""
