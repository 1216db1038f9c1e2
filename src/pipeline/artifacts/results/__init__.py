"""What each stage finds out, one file per kind of artefact: written as the facts of its manifest, checked when read.

This file imports nothing, so that a stage's code digest covers the kinds that it writes and reads, and no other.
"""
