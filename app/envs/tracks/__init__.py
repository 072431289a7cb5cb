"""Tracks: random closed tracks, lines to drive along, and the fastest laps on them."""
