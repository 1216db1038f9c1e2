"""The progress of a whole study in a terminal, from Snakemake's events and the logs of running jobs.

Both are the same for jobs on this machine and on a cluster: events come from the main process, logs lie on the file
system that all share.
"""
