"""Replay viewer: episodes of a run's best policy on one page, beside the reference driver and another run."""
