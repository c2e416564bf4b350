"""Initial priorities by actors: which values of the policy each item gets, and that they are the learner's."""

import gymnasium as gym
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tfrl.agent import ActorPlace, NStep
from tfrl.algos import dqn
from tfrl.algos.parts import q_steps
from tfrl.envs.make import make_spec, make_vector
from tfrl.job import EnvPlan
from tfrl.runtime.acting.actor import Actor
from tfrl.runtime.acting.inference import StepSignature, make_engine
from tfrl.testing import trajectories
from tfrl.types import EnvSpec, PolicyStep, Transition

FLAT = EnvSpec("flat", gym.spaces.Box(-1, 1, (3,), np.float32), gym.spaces.Discrete(4))
FALLBACK, DISCOUNT = 77.0, 0.9


def priority(reward, discount, before, after):
    return np.abs(reward + discount * after["q_max"] - before["q_taken"])


def twin(acted, extras, n, num_envs, same_step):
    """{observation acted on: priority}, step by step and row by row."""
    out = {}
    for row in range(num_envs):
        steps = [i for i, a in enumerate(acted) if a.step.valid[row]]
        for position, i in enumerate(steps):
            total, power = 0.0, 1.0
            for j in steps[position : position + n]:
                step = acted[j].step
                total, power = total + power * step.reward[row], power * DISCOUNT
                ended = step.terminated[row] or step.truncated[row]
                if ended:
                    break
            whole = ended or j - i + 1 == n
            if not whole:
                continue  # still open at the end
            lost = j + 1 == len(acted) or (same_step and step.truncated[row])
            if step.terminated[row]:
                value = abs(total - extras[i]["q_taken"][row])
            elif lost:
                value = FALLBACK
            else:  # the next step acts on the observation that is bootstrapped from
                bootstrap = power * extras[j + 1]["q_max"][row]
                value = abs(total + bootstrap - extras[i]["q_taken"][row])
            out[acted[i].obs[row].tobytes()] = value
    return out


class InitialPrioritiesTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(n=(1, 3), same_step=(False, True), stacked=(False, True))
    def test_every_item_has_the_values_of_its_own_observations(self, n, same_step, stacked):
        rng, num_envs = np.random.default_rng(n), 3
        if stacked:
            spec, script = trajectories.stacked_script(num_envs, 60, 3, 5, 0, same_step, True)
        else:
            spec = FLAT
            script = trajectories.random_script(spec, num_envs, 60, 0, same_step)
        names = ("q_taken", "q_max")
        extras = [
            {k: rng.normal(size=num_envs).astype(np.float32) for k in names} for _ in script.acted
        ]
        expected = twin(script.acted, extras, n, num_envs, same_step)
        self.assertGreater(sum(value != FALLBACK for value in expected.values()), 100)
        with trajectories.bench(spec, NStep(n, DISCOUNT), num_envs, True, priority) as bench:
            bench.writer.load((), 0, FALLBACK)
            for acted, told in zip(script.acted, extras, strict=True):
                bench.writer.record(acted.obs, (), PolicyStep(acted.action, (), told), acted.step)
            items, priorities = bench.drain()
        found = {np.asarray(i.obs_tm1).tobytes(): p for i, p in zip(items, priorities)}
        self.assertLen(items, len(expected))
        self.assertEqual(found.keys(), expected.keys())
        for key, value in expected.items():
            self.assertAlmostEqual(found[key], value, places=5)

    @parameterized.product(
        env=("CartPole-v1", "tfrl.testing.fakes:MaskedBandit"), double=(True, False)
    )
    def test_they_are_what_the_learner_computes_with_the_same_weights(self, env, double):
        plan = EnvPlan(env=env, max_episode_steps=9)
        spec = make_spec(plan)
        config = dqn.Config(
            n_step=3, double=double, hidden_sizes=(8,), prioritized=True, actor_priorities=True,
            batch_size=1,
        )  # fmt: skip
        agent = dqn.make(config, spec)
        policy, num_envs = agent.make_policy(), 2
        vector = make_vector(plan, num_envs, 0)
        signature = StepSignature(policy, spec, num_envs, ["epsilon"], explore=True)
        engine = make_engine("function", policy, signature)
        item = agent.experience.item
        with trajectories.bench(spec, item, num_envs, True, agent.initial_priority) as bench:
            bench.writer.load((), 0, FALLBACK)
            actor = Actor(
                agent,
                engine,
                vector,
                bench.writer,
                ActorPlace(0, 1, num_envs),
                np.random.default_rng(0),
                seed=1,
            )
            actor.run(40, 0)
            actor.run(20, 0)
            items, priorities = bench.drain()
        fields = [trajectories.stack_rows(x) for x in list(zip(*items))]
        batch = Transition(*fields, np.ones(len(items), np.float32))
        batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
        rows = q_steps.of_transitions(policy, policy, batch)
        learnt = dqn.loss(config, policy, policy, rows, np.int32([0, 0])).priority
        known = np.float32(priorities) != FALLBACK
        self.assertGreaterEqual(np.count_nonzero(known), len(items) - num_envs)
        self.assertGreater(np.count_nonzero(known), 60)
        learnt = learnt.numpy() + np.float32(config.priority_epsilon)
        self.assertAllClose(np.float32(priorities)[known], learnt[known], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    tf.test.main()
