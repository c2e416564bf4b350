"""Side inputs of a Dict observation: their rules, and that no network reads them."""

import pathlib
import tempfile

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
import tree
from absl.testing import parameterized

import tfrl
from tfrl.agent import ActorPlace
from tfrl.algos import dqn, ppo
from tfrl.envs import check, make
from tfrl.errors import SettingError
from tfrl.job import EnvPlan
from tfrl.nn import inputs, normalise, torsos
from tfrl.testing import fakes
from tfrl.types import SIDE_INPUTS

spaces = gym.spaces
FAKE = "tfrl.testing.fakes:SideInputs"
UNREAD = ("state", "alive", "labels", "expert")


class Changed(fakes.SideInputs):
    """With another space for one key, or without one where it is None."""

    def __init__(self, key, space):
        super().__init__()
        parts = {k: s for k, s in self.observation_space.spaces.items() if k != key}
        if space is not None:
            parts[key] = space
        self.observation_space = spaces.Dict(parts)


class Nested(fakes.TruncatingChain):
    """A Dict inside the observation whose keys are those of side inputs, which count on the first level only."""

    def __init__(self):
        super().__init__()
        inner = spaces.Dict(state=spaces.Box(0, 1, (2,)), labels=spaces.Discrete(3))
        self.observation_space = spaces.Dict(robot=inner)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self.observation_space.sample(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return (self.observation_space.sample(), *rest)


def observations():
    vector = make.make_vector(EnvPlan(env=FAKE), 3, 0)
    return vector.spec, vector.reset(), vector.reset()


class RulesTest(tf.test.TestCase, parameterized.TestCase):
    def test_the_environment_has_all_of_them_in_their_dtypes(self):
        spec, obs, _ = observations()
        self.assertEqual(set(spec.side_inputs), set(SIDE_INPUTS))
        self.assertEqual(spec.num_agents, 1)
        dtypes = {key: (obs[key].dtype.name, obs[key].shape[1:]) for key in SIDE_INPUTS}
        self.assertEqual(
            dtypes,
            {
                "action_mask": ("float32", (4,)),
                "action_features": ("float32", (4, 3)),
                "state": ("float32", (2, 5)),
                "alive": ("float32", (1,)),
                "labels": ("float32", (2,)),
                "expert": ("int32", ()),
            },
        )
        self.assertEqual(spec.observation_space["labels"], spaces.Box(0.0, 1.0, (2,), np.float32))

    @parameterized.parameters(
        ("action_mask", spaces.MultiBinary(5), r"action_mask has shape \[5\].*expected \[4\]"),
        ("action_features", spaces.Box(0, 1, (3, 2)), r"expected a Box of shape \[num_actions, features\]"),
        ("state", spaces.Discrete(3), r"state is Discrete\(3.*\); expected a Box"),
        ("alive", spaces.MultiBinary(2), r"alive is .*expected a Box or MultiBinary of shape \[1\]"),
        ("alive", spaces.Discrete(3), r"\['alive'\] is Discrete.3.: expected a Box or MultiBinary"),
        ("labels", spaces.MultiBinary((2, 2)), r"\['labels'\] is .*of shape \[propositions\]"),
        ("expert", spaces.Box(0, 1, (2,)), r"expert is Box.*expected the form of action_space Discrete\(4"),
        ("expert", spaces.Discrete(5), r"expert is Discrete\(5.*\); expected the form"),
    )  # fmt: skip
    def test_one_that_breaks_its_rule_is_refused(self, key, space, message):
        plan = EnvPlan(env=f"{__name__}:Changed", env_kwargs={"key": key, "space": space})
        with self.assertRaisesRegex(SettingError, f"^env='{__name__}:Changed': .*{message}"):
            make.make_spec(plan)
        findings = check.check_env(Changed(key, space), num_steps=2, strict=False)
        self.assertRegex("\n".join(findings), message)

    def test_a_network_has_something_left_to_read(self):
        plan = EnvPlan(env=f"{__name__}:Changed", env_kwargs={"key": "observation", "space": None})
        with self.assertRaisesRegex(
            SettingError, "nothing that a network reads; .* beside action_"
        ):
            make.make_spec(plan)

    def test_names_say_so_where_they_may_mean_something_else(self):
        findings = check.check_env(fakes.SideInputs(), num_steps=20)
        said = [f for f in findings if "side input" in f]
        self.assertLen(said, 4)
        self.assertStartsWith(said[0], "warning: ")
        spec, _, _ = observations()
        for module in (dqn, ppo):
            agent = module.make(module.Config(), spec)
            line = [note for note in agent.notes if "side input" in note]
            self.assertEqual(
                line,
                ["observation alive, expert, labels, state: a side input, which no network reads"],
            )

    def test_inside_another_part_they_are_ordinary(self):
        vector = make.make_vector(EnvPlan(env=f"{__name__}:Nested"), 2, 0)
        spec = vector.spec
        self.assertEqual(spec.side_inputs, {})
        self.assertEqual(
            spec.observation_space["robot"]["labels"], spaces.Discrete(3, dtype=np.int32)
        )
        torso = torsos.Torso(spec, "mlp", (4,), "relu")
        torso(vector.reset())
        self.assertEqual(max(v.shape[0] for v in torso.variables), 2 + 3)


class NetworksTest(tf.test.TestCase, parameterized.TestCase):
    def test_what_a_network_reads_is_the_rest(self):
        spec, obs, _ = observations()
        self.assertEqual(inputs.model_space(spec.observation_space), spaces.Box(0.0, 1.0, (2,)))
        self.assertAllEqual(inputs.model_input(obs), obs["observation"])
        self.assertEqual(
            list(normalise.normalised_leaves(spec.observation_space)), ["observation/observation"]
        )

    @parameterized.product(module=(dqn, ppo), normalised=(False, True))
    def test_no_output_depends_on_them(self, module, normalised):
        spec, obs, other = observations()
        config = module.Config(hidden_sizes=(8,), normalize_observations=normalised)
        policy = module.make(config, spec).make_learner().policy
        noise = {
            name: tf.fill([3, *n.shape], 0.3) for name, n in policy.noise.items()
        }  # the same for both
        knobs = dict(module.make(config, spec).knobs(ActorPlace(0, 1, 3), 0, {}))

        def outputs(obs):
            step = policy.step(obs, policy.initial_state(3, {}), knobs, noise, True)
            return tree.flatten((step, policy.estimates(obs, ())))

        expected = outputs(obs)
        for key in UNREAD:
            changed = {**obs, key: other[key]}
            self.assertNotAllEqual(obs[key], other[key])
            for mine, theirs in zip(outputs(changed), expected, strict=True):
                self.assertAllEqual(mine, theirs, key)
        features = {**obs, "action_features": other["action_features"]}  # these are read
        self.assertFalse(
            all(np.array_equal(a, b) for a, b in zip(outputs(features), expected, strict=True))
        )

    def test_they_travel_with_the_experience_and_masks_hold(self):
        self.check_run("ppo", dict(unroll_length=16))

    @pytest.mark.slow
    def test_they_travel_with_a_replay_and_masks_hold(self):
        replay = dict(min_replay=50, batch_size=8, updates_per_call=4, env_steps_per_update=4)
        self.check_run("dqn", replay)

    def check_run(self, algo, settings):
        run_dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        # The environment raises an error for an action that its mask forbids.
        result = tfrl.train(
            algo, env=FAKE, run_dir=str(run_dir), total_env_steps=128, num_envs=2, hidden_sizes=(8,),
            eval_every_env_steps=0, final_eval_episodes=2, checkpoint_every_env_steps=0,
            console="none", tensorboard=False, compile="graph", inference="function", **settings,
        )  # fmt: skip
        self.assertGreater(result.updates, 0)
        obs = fakes.SideInputs().reset(seed=0)[0]
        self.assertIn(int(tfrl.load(run_dir).predict(obs)), (1, 3))


if __name__ == "__main__":
    tf.test.main()
