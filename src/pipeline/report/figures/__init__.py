"""One file per subject; each function takes numbers and returns :class:`pipeline.report.drawing.Drawing` panels."""
