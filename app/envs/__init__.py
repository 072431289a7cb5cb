"""Gymnasium environments: the observation contract (``spec``) and a factory of every kind (``env_factory``).

Importing this package registers the simulator with Gymnasium: ``gymnasium.make("TrackSim-v0")`` with images,
``gymnasium.make("TrackSimLidar-v0")`` without.
"""

from gymnasium.envs.registration import register

# Strings: the simulator itself is imported when one of them is made.
for _name, _option in (("TrackSim-v0", "sim"), ("TrackSimLidar-v0", "sim_lidar")):
    register(
        _name,
        entry_point="app.envs.driving.track_sim:TrackSim",
        vector_entry_point="app.envs.driving.vector_sim:VectorTrackSim",
        kwargs={"option": _option},
    )
