"""The progress of a whole study, drawn in a terminal or told line by line, from Snakemake's events and jobs' logs.

Both work the same for jobs on this machine and on a cluster: events come from the main process, and logs are on the
shared file system.
"""
