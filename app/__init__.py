"""Train a SAC/DroQ driver that does not collapse."""
