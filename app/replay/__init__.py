"""Replay buffer: one uint8 frame and one row of numbers per step; observations are rebuilt when sampled."""
