"""What a person sees: banner, progress, metrics, curves, video and summary.

Pure presentation: data comes in as plain values, so this package imports nothing of the agent, the
replay or the training loop, and no module here imports torch at import time.
"""
