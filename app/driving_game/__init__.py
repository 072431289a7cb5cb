"""Driving the simulator by hand: window, drivers, ghost, recorded laps and demonstrations."""
