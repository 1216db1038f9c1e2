"""The results of each stage, one file per kind of artefact: written as facts of its manifest, checked when read.

This file imports nothing, so that a stage's code digest covers only the kinds that it writes and reads.
"""
