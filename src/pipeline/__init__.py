"""Parsimony: fewer steps, fewer bits, fewer numbers."""

__version__ = "0.2.0"
