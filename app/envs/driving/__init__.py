"""Driving on closed tracks: the simulator, Gymnasium's CarRacing, and what both share."""
