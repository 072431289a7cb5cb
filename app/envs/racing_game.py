"""Gymnasium's CarRacing as a world to drive in: its physics without its pictures.

Imports Box2D and pygame, so it is imported only when such a world is made.
"""

import math

import numpy as np
from gymnasium.envs.box2d import car_dynamics, car_racing

HALF_WIDTH = car_racing.TRACK_WIDTH  # of the road
STANDING_HEADING = math.pi / 2.0  # a body looks along its own y axis
_ITERATIONS = (180, 60)  # of Box2D's solver for velocities and positions: those of CarRacing.step


class RacingGame(car_racing.CarRacing):
    """One episode's world: a road, a car, and the game's own score.

    Each episode takes a game of its own, so that what happens depends on nothing that happened before.
    ``reward`` is the score, 1000 for all tiles of the road together less 0.1 per frame.
    """

    def __init__(self, seed: int) -> None:
        """Build the road that ``CarRacing.reset(seed=seed)`` builds.

        Args:
            seed: Of the road.
        """
        super().__init__(render_mode="rgb_array")
        self.reset(seed=seed)

    def lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the centre line and the left and right border, each ``(tiles, 2)`` float64 in driving order."""
        tiles = np.array(self.track)  # angle around the origin, angle of the road, x, y
        across = HALF_WIDTH * np.stack([np.cos(tiles[:, 1]), np.sin(tiles[:, 1])], axis=1)
        centre = tiles[:, 2:]
        return centre, centre - across, centre + across

    def place(self, x: float, y: float, heading: float, seconds: float) -> None:
        """Begin the episode here, standing: a new car, an untouched road, no score.

        Args:
            x: World units.
            y: World units.
            heading: rad, counter-clockwise from the x axis.
            seconds: Duration of the one step of physics that lets the wheels feel the road.
        """
        self.car.destroy()
        for tile in self.road:
            tile.road_visited = False
        self.reward, self.tile_visited_count, self.new_lap, self.t = 0.0, 0, False, 0.0
        self.car = car_dynamics.Car(self.world, heading - STANDING_HEADING, x, y)
        self.world.Step(seconds, *_ITERATIONS)

    def drive(self, gas: float, brake: float, steer: float, seconds: float, substeps: int) -> None:
        """Hold the controls for a while.

        Args:
            gas: [0, 1].
            brake: [0, 1].
            steer: [-1, 1], right is positive; 1 is as far as the front wheels turn.
            seconds: How long.
            substeps: In how many steps of physics.
        """
        car, dt = self.car, seconds / substeps
        car.steer(-steer * car.wheels[0].joint.upperLimit)
        car.brake(brake)
        for _ in range(substeps):
            car.gas(gas)  # in every step: it follows with a delay
            car.step(dt)
            self.world.Step(dt, *_ITERATIONS)
        self.t += seconds
        self.reward -= 0.1 * car_racing.FPS * seconds

    def motion(self) -> tuple[float, float, float, float, float]:
        """Return x, y, heading (rad, counter-clockwise from the x axis), speed along it and of the rear wheels."""
        hull = self.car.hull
        x, y = hull.position
        heading = hull.angle + STANDING_HEADING
        vx, vy = hull.linearVelocity
        rolling = sum(wheel.omega * wheel.wheel_rad for wheel in self.car.wheels[2:]) / 2.0
        return x, y, heading, vx * math.cos(heading) + vy * math.sin(heading), rolling

    def close(self) -> None:
        """Take the bodies out of the world, which would be kept in memory otherwise, and close the pictures."""
        self._destroy()
        super().close()

    def _render(self, mode: str) -> np.ndarray | None:
        """Paint for a video, and not in every step."""
        return None if mode == "state_pixels" else super()._render(mode)
