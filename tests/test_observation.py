"""The observation builder, compared with one that keeps the whole episode, and the observation contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.envs.env_factory import make_env, make_spec
from app.envs.observation import ObservationBuilder, newest_sensors_and_frame
from app.envs.spec import ObservationSpec
from tests.helpers.driver import drive_episode
from tests.helpers.make import compose


def make_small_spec(sensors=4, history=3, window=5, actions=2, image=2) -> ObservationSpec:
    return ObservationSpec(
        sensors=sensors,
        action_dim=2,
        action_history=actions,
        image_shape=(image, 3, 3) if image else None,
        window=window,
        window_sensors=tuple(range(0, sensors, 2)),
        sensor_scale=(1.0,) * sensors,
        reward_scale=1.0,
    )


def expected_observation(spec: ObservationSpec, episode: list[tuple]) -> dict[str, np.ndarray]:
    """Build the newest observation of a whole episode of (sensors, frame, action, reward)."""
    zero = np.zeros(spec.action_dim, np.float32)
    actions = [zero] * spec.action_history + [action for _, _, action, _ in episode[1:]]
    past = actions[len(actions) - spec.action_history :]
    obs = {"floats": np.concatenate([episode[-1][0], *past]).astype(np.float32)}
    if spec.image_shape:
        frames = [episode[0][1]] * spec.image_shape[0] + [frame for _, frame, _, _ in episode[1:]]
        obs["images"] = np.stack(frames[-spec.image_shape[0] :])
    if spec.window:
        rows = [np.zeros(spec.window_dim, np.float32)] * spec.window
        for sensors, _, action, reward in episode:
            rows.append(np.array([*sensors[list(spec.window_sensors)], *action, reward], np.float32))
        obs["window"] = np.stack(rows[-spec.window :])
    return obs


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    window=st.integers(0, 20),
    actions=st.integers(0, 3),
    image=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=3),
)
def test_histories_equal_those_of_the_whole_episode(seed, window, actions, image, lengths):
    spec = make_small_spec(window=window, actions=actions, image=image)
    builder, rng = ObservationBuilder(spec), np.random.default_rng(seed)
    zero = np.zeros(spec.action_dim, np.float32)
    for length in lengths:
        episode = []
        for step in range(length):
            sensors = rng.normal(size=spec.sensors).astype(np.float32)
            frame = rng.integers(0, 256, (3, 3), np.uint8) if image else None
            action, reward = (rng.uniform(-1, 1, 2).astype(np.float32), rng.normal()) if step else (zero, 0.0)
            episode.append((sensors, frame, action, reward))
            obs = builder.append(*episode[-1]) if step else builder.reset(sensors, frame)
            expected = expected_observation(spec, episode)
            assert obs.keys() == expected.keys()
            for part in obs:
                np.testing.assert_array_equal(obs[part], expected[part])
                assert obs[part].dtype == expected[part].dtype
        np.testing.assert_array_equal(newest_sensors_and_frame(obs, spec)[0], episode[-1][0])
        if image:
            np.testing.assert_array_equal(newest_sensors_and_frame(obs, spec)[1], episode[-1][1])


def test_newest_sensors_and_frame_are_copies():
    spec = make_small_spec()
    obs = ObservationBuilder(spec).reset(np.ones(4, np.float32), np.ones((3, 3), np.uint8))
    sensors, frame = newest_sensors_and_frame(obs, spec)
    assert sensors.base is None and frame.base is None


def test_first_observation_has_an_empty_past():
    config = compose("env=sim").env
    env = make_env(config, [1], 0)
    drive_episode(env, track=1, start=0.2)  # an earlier episode
    obs, _ = env.reset(options={"start": 0.5})
    assert (obs["images"] == obs["images"][-1]).all() and obs["images"].dtype == np.uint8
    assert not obs["window"][:-1].any() and obs["window"][-1, 1:20].all()
    assert not obs["window"][-1, 20:].any() and not obs["floats"][22:].any()


def test_observation_fulfils_its_spec():
    config = compose("env=sim").env
    spec, env = make_spec(config), make_env(config, [1], 0)
    assert env.observation_spec == spec and env.observation_space == spec.observation_space()
    assert (spec.sensors, spec.float_dim, spec.window_dim, spec.window) == (22, 28, 24, 16)
    observations, rewards, _ = drive_episode(env, track=1, start=0.2)
    for obs in observations[::50]:
        assert env.observation_space.contains(obs)
    last = observations[-1]
    assert last["window"][-1, -1] == np.float32(rewards[-1])
    np.testing.assert_array_equal(last["window"][-1, :20], last["floats"][[0, *range(3, 22)]])
    np.testing.assert_array_equal(last["window"][-2:, 20:23].ravel(), last["floats"][22:])
    scaled = np.abs([obs["floats"][:22] / spec.sensor_scale for obs in observations])
    assert scaled.max() <= 1.0 and np.abs(rewards).max() <= spec.reward_scale


def test_lidar_only_observation_has_no_images():
    config = compose("env=sim_lidar").env
    obs, _ = make_env(config, [1], 0).reset()
    assert obs.keys() == {"floats", "window"} and make_spec(config).image_shape is None


@pytest.mark.parametrize("broken", [{"sensor_scale": (1.0,)}, {"window_sensors": (4,)}])
def test_contradictory_spec_is_refused(broken):
    values = {**make_small_spec().__dict__, **broken}
    with pytest.raises(ValueError):
        ObservationSpec(**values)
