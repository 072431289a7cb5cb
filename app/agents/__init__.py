"""Learning algorithm: the SAC agent, its losses and its optimiser."""
