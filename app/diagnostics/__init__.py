"""Checks of this machine for a run: the program, the network, the game, and the roles that it can take."""
