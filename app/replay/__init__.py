"""The replay: one uint8 frame and one row of scalars per step, observations rebuilt when they are sampled."""
