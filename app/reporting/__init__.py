"""Presentation of a run: banner, progress, metrics, curves, video and summary. Imports no torch at import time."""
