"""Parts of rewards and discounts of the environment's own, through every vector, and what is refused of them."""

import functools

import gymnasium as gym
import numpy as np
from absl.testing import absltest, parameterized
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from tfrl.envs import make
from tfrl.envs.vector import BatchVector, SyncVector
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.testing import fakes
from tfrl.types import EnvSpec

FAKE = "tfrl.testing.fakes:PartsAndDiscount"
LENGTHS = (3, 4)


class Ends(fakes.PartsAndDiscount):
    """Terminates where the other is truncated, whatever its discount there."""

    def step(self, action):
        obs, reward, _, ends, info = super().step(action)
        return obs, reward, ends, False, info


class Wrong(fakes.PartsAndDiscount):
    """Gives something else for a key of the info in its second step."""

    def __init__(self, key="discount", value=None):
        super().__init__()
        self._key, self._value = key, value

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        if self._t == 2:
            info = dict(info)
            del info[self._key]
            if self._value is not None:
                info[self._key] = self._value
        return obs, reward, terminated, truncated, info


class Declares(fakes.TruncatingChain):
    """Declares what it is given."""

    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def vector_of(kind, factories, info_names=()):
    """A vector of environments that one kind of vector steps."""
    spec = make.make_spec(EnvPlan(env=FAKE))
    if kind == "sync":
        return SyncVector(factories, spec, seed=0, info_names=info_names)
    env = SyncVectorEnv(factories, autoreset_mode=AutoresetMode(kind))
    return BatchVector(env, spec, 0, backend=kind, info_names=info_names)


class PartsTest(parameterized.TestCase):
    def assertSteps(self, vector, terminates=False, discount=0.5):
        """Every valid row has its parts and its discount, every other zeros and 1."""
        obs = vector.reset()
        ended = resets = 0
        for _ in range(20):
            step = vector.step(np.zeros(vector.num_envs, np.int32))
            share = obs[:, 1:]
            parts = np.where(step.valid[:, None], np.hstack([1.0 + share, -share]), 0.0)
            np.testing.assert_allclose(step.rewards, parts, rtol=1e-6)
            own = np.where(step.valid, np.where(step.terminated, 0.0, discount), 1.0)
            np.testing.assert_array_equal(step.discount, own)
            self.assertEqual((step.rewards.dtype, step.discount.dtype), (np.float32, np.float32))
            self.assertEqual(step.terminated.any(), terminates and bool(step.episodes))
            ended += len(step.episodes)
            resets += int((~step.valid).sum())
            obs = step.obs
        self.assertGreater(ended, 4)
        if not vector.restarts_in_step:
            self.assertGreater(resets, 4)

    @parameterized.product(kind=("sync", "NextStep", "SameStep"), ends=(False, True))
    def test_every_vector_gives_them(self, kind, ends):
        make_one = Ends if ends else fakes.PartsAndDiscount
        factories = [functools.partial(make_one, length) for length in LENGTHS]
        vector = vector_of(kind, factories)
        self.assertSteps(vector, terminates=ends)
        vector.close()

    def test_environments_in_processes_give_them(self):
        plan = EnvPlan(env=FAKE, env_kwargs={"length": 4}, env_backend="async")
        vector = make.make_vector(plan, 2, 0)
        self.assertSteps(vector)
        vector.close()

    def test_wrapped_environments_give_them(self):
        plan = EnvPlan(
            env=FAKE, env_kwargs={"length": 4}, env_wrappers=("gymnasium.wrappers:NormalizeReward",),
            observe_previous=True,
        )  # fmt: skip
        vector = make.make_vector(plan, 2, 0)
        self.assertEqual(vector.spec.reward_parts, ("gain", "cost"))
        self.assertTrue(vector.spec.step_discount)
        vector.reset()
        step = vector.step(np.zeros(2, np.int32))
        np.testing.assert_array_equal(step.rewards, [[1.0, 0.0]] * 2)
        np.testing.assert_array_equal(step.discount, [0.5, 0.5])
        vector.close()

    def test_clipped_rewards_leave_the_parts_as_they_are(self):
        plan = EnvPlan(env=FAKE, clip_rewards=True)
        vector = make.make_vector(plan, 1, 0)
        vector.reset()
        vector.step(np.zeros(1, np.int32))
        np.testing.assert_allclose(vector.step(np.zeros(1, np.int32)).rewards, [[1.1, -0.1]])

    @parameterized.parameters("sync", "NextStep", "SameStep")
    def test_a_metric_of_a_part_is_its_sum_over_the_episode(self, kind):
        factories = [functools.partial(fakes.PartsAndDiscount, 4)]
        vector = vector_of(kind, factories, ("cost", "gain"))
        vector.reset()
        episodes = []
        for _ in range(12):
            episodes += vector.step(np.zeros(1, np.int32)).episodes
        self.assertGreater(len(episodes), 1)
        for episode in episodes:
            np.testing.assert_allclose(episode.infos, [-1.5, 5.5], rtol=1e-6)

    def test_an_environment_without_them_has_none(self):
        vector = make.make_vector(EnvPlan(env="tfrl.testing.fakes:Counter"), 2, 0)
        vector.reset()
        step = vector.step(np.zeros(2, np.int32))
        self.assertIsNone(step.rewards)
        self.assertIsNone(step.discount)
        self.assertEqual((vector.spec.reward_parts, vector.spec.step_discount), ((), False))

    @parameterized.parameters(
        ("discount", None, r"info\['discount'\] is missing; expected a number in \[0, 1\]"),
        ("discount", 1.5, r"info\['discount'\] is 1.5"),
        ("discount", -0.1, r"info\['discount'\] is -0.1"),
        ("discount", float("nan"), r"info\['discount'\] is nan"),
        ("discount", "much", r"info\['discount'\] is 'much' of type str"),
        (
            "reward_parts",
            None,
            r"info\['reward_parts'\] is missing; expected 2 finite numbers: gain, cost",
        ),
        ("reward_parts", np.zeros(3), r"info\['reward_parts'\] is an array of shape \[3\]"),
        ("reward_parts", [1.0, float("inf")], r"info\['reward_parts'\]\[1\], cost, is inf"),
        ("reward_parts", [float("nan"), 0.0], r"info\['reward_parts'\]\[0\], gain, is nan"),
        ("reward_parts", 1.0, r"info\['reward_parts'\] is 1.0 of type float"),
    )
    def test_what_cannot_be_used_is_refused_by_its_place(self, key, value, message):
        # gymnasium's own vectors let no other type or shape pass than the first row's.
        kinds = ("sync", "NextStep") if value is None or isinstance(value, float) else ("sync",)
        for kind in kinds if key == "discount" or value is None else ("sync",):
            vector = vector_of(kind, [lambda: fakes.PartsAndDiscount(), lambda: Wrong(key, value)])
            vector.reset()
            vector.step(np.zeros(2, np.int32))
            with self.assertRaisesRegex(SettingError, message) as caught:
                vector.step(np.zeros(2, np.int32))
            self.assertRegex(str(caught.exception), "row 1, step 2 of its episode")

    def test_a_worker_names_the_row_too(self):
        kwargs = {"key": "reward_parts", "value": [1.0, 2.0, 3.0]}
        plan = EnvPlan(env=f"{__name__}:Wrong", env_kwargs=kwargs, env_backend="async")
        vector = make.make_vector(plan, 1, 0)
        vector.reset()
        vector.step(np.zeros(1, np.int32))
        with self.assertRaisesRegex(
            SettingError, "row 0, step 2 of its episode: info.'reward_parts'"
        ):
            vector.step(np.zeros(1, np.int32))


class DeclaredTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(reward_parts="gain"), "reward_parts is 'gain'; expected different names"),
        (dict(reward_parts=("a", "a")), r"reward_parts is \(.a., .a.\); expected different names"),
        (dict(reward_parts=("a b",)), ".*expected different names of letters"),
        (dict(reward_parts=(1,)), ".*expected different names"),
        (dict(num_agents=0), "num_agents is 0; expected a whole number from 1 on"),
        (dict(num_agents=2.0), "num_agents is 2.0"),
    )
    def test_what_makes_no_sense_is_refused(self, attributes, message):
        plan = EnvPlan(env=f"{__name__}:Declares", env_kwargs=attributes)
        with self.assertRaisesRegex(SettingError, f"^env='{__name__}:Declares': {message}"):
            make.make_spec(plan)

    def test_the_spec_says_it_and_keeps_it_in_json(self):
        attributes = dict(reward_parts=["a", "b-2"], step_discount=True)
        plan = EnvPlan(env=f"{__name__}:Declares", env_kwargs=attributes)
        spec = make.make_spec(plan)
        self.assertEqual(spec.reward_parts, ("a", "b-2"))
        self.assertTrue(spec.step_discount)
        self.assertEqual(EnvSpec.from_json(spec.to_json()), spec)
        old = {k: v for k, v in spec.to_json().items() if k not in attributes}
        read = EnvSpec.from_json(old)
        self.assertEqual((read.num_agents, read.reward_parts, read.step_discount), (1, (), False))

    def test_an_outer_wrapper_overrules(self):
        class Other(gym.Wrapper):
            reward_parts = ("only",)

        spec = make.spec_of(EnvPlan(env="t"), Other(fakes.PartsAndDiscount()), None)
        self.assertEqual(spec.reward_parts, ("only",))


if __name__ == "__main__":
    absltest.main()
