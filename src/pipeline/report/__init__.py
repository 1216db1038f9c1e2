"""A study's results as one self-contained page."""

from pipeline.report.metrics import Metrics
from pipeline.report.page import render

__all__ = ["Metrics", "render"]
