"""Small learners of DDPG, TD3 and SAC for tests: batches made by hand, critics whose values are given."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tensorflow as tf

from tfrl.agent import Agent
from tfrl.replay.kinds import make_layout
from tfrl.testing import conformance
from tfrl.types import EnvSpec, Transition

SEED = np.int32([3, 5])
SPEC = EnvSpec(
    "e",
    gym.spaces.Box(-1.0, 1.0, (3,), np.float32),
    gym.spaces.Box(-2.0, 2.0, (2,), np.float32),
    max_episode_steps=9,
)
LINE = EnvSpec(
    "line",
    gym.spaces.Box(-9.0, 9.0, (1,), np.float32),
    gym.spaces.Box(-0.5, 1.0, (1,), np.float32),
)

# Settings of short runs without files that no test reads.
QUIET = dict(
    eval_every_env_steps=0,
    eval_episodes=1,
    final_eval_episodes=1,
    export_policy="last",
    checkpoint_every_env_steps=0,
    checkpoint_replay=False,
    console="none",
    tensorboard=False,
    log_every_s=1e-9,
    compile="graph",
)


def agent(module: types.ModuleType, spec: EnvSpec, **settings: Any) -> Agent:
    """An algorithm with layers of 8 units and batches of 8 rows, with weights from a fixed seed."""
    tf.keras.utils.set_random_seed(3)
    small = dict(
        policy_hidden_sizes=(8,), critic_hidden_sizes=(8,), batch_size=8, updates_per_call=1
    )
    return module.make(module.Config(**{**small, **settings}), spec)


def learner(module: types.ModuleType, **settings: Any) -> Any:
    """A learner of `LINE`."""
    return agent(module, LINE, **settings).make_learner()


def linear_learner(module: types.ModuleType, **settings: Any) -> Any:
    """A learner of `LINE` without hidden layers, whose critics give 0 everywhere."""
    found = learner(module, policy_hidden_sizes=(), critic_hidden_sizes=(), **settings)
    zeros = [0.0] * len(found.critics.critics.heads)
    for critics in (found.critics, found.target_critics):
        set_critics(critics, zeros, zeros)
    return found


def set_critics(
    critics: Any, slopes: Sequence[float], biases: Sequence[float], actions: Any = None
) -> None:
    """Makes critics without hidden layers Q_i(s, a) = slope_i s + action_i a + bias_i, a on the scale [-1, 1]."""
    if actions is None:
        actions = [0.0] * len(slopes)
    rows = zip(critics.critics.heads, slopes, actions, biases)
    for head, slope, action, bias in rows:
        head.output.kernel.assign([[slope], [action]])
        head.output.bias.assign([bias])


def batch(reward: Sequence[float], discount: Sequence[float], obs_t: Any = None) -> Transition:
    """Transitions of `LINE` from 1 to `obs_t`, or to 1, by the action 0.3."""
    count = len(reward)
    ones = tf.ones([count, 1])
    return Transition(
        obs_tm1=ones,
        action_tm1=0.3 * ones,
        reward_t=tf.constant(reward, tf.float32),
        discount_t=tf.constant(discount, tf.float32),
        obs_t=ones if obs_t is None else tf.constant(obs_t, tf.float32),
        probability=tf.ones([count]),
    )


def decoded(agent: Agent, spec: EnvSpec) -> Any:
    """A random batch of an agent."""
    layout = make_layout(agent, spec, agent.make_policy(), 1)
    size = agent.experience.batch_size
    columns = {k: x[:size] for k, x in conformance.block(agent, spec, 1).columns.items()}
    return layout.decode(columns, tf.ones([size]))


def learner_and_batch(module: types.ModuleType, spec: EnvSpec, **settings: Any) -> tuple[Any, Any]:
    """A learner and a random batch."""
    made = agent(module, spec, **settings)
    return made.make_learner(), decoded(made, spec)


def trained(learner: Any, batch: Any, seed: Any) -> tuple[set[str], set[str]]:
    """Names of the networks that the update of the critics changes, and of those that the one of the policy does."""
    values = lambda: {n.name: [v.numpy() for v in n.variables] for n in learner.networks()}
    found = [values()]
    for update in (learner.update, learner.update_policy):
        update(batch, seed)
        found.append(values())
    changed = lambda a, b: {name for name in a if conformance.apart(a[name], b[name]) > 0}
    return changed(*found[:2]), changed(*found[1:])


def solve_bandit(
    module: types.ModuleType, updates: int = 1_000, **settings: Any
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Trains on random actions a in `LINE` whose reward is -(a - 0.3)^2, with a discount of 0.

    Returns:
      The learner, values of the critics [N, n] and rewards [n] of the actions.
    """
    made = learner(
        module, policy_hidden_sizes=(16,), critic_hidden_sizes=(32, 32), learning_rate=3e-3, policy_learning_rate=1e-3,
        learning_rate_final=3e-4, learning_rate_updates=updates, **settings,
    )  # fmt: skip
    action = np.linspace(-0.5, 1.0, 64, dtype=np.float32)
    reward = -np.square(action - 0.3)
    rows = batch(reward, np.zeros(64))._replace(action_tm1=tf.constant(action[:, None]))
    delayed = made.delayed()

    @tf.function(autograph=False)
    def train() -> None:
        def body(i: tf.Tensor) -> list[tf.Tensor]:
            seed = tf.stack([tf.cast(i, tf.int32), 0])
            for j in range(delayed.every_updates):
                made.update(rows, seed + j)
            delayed.fn(rows, seed)
            for periodic in made.periodic():
                periodic.fn()
            return [i + delayed.every_updates]

        tf.while_loop(lambda i: i < updates, body, [tf.constant(0)])

    train()
    unit = made.policy.to_unit(rows.action_tm1)
    features = made.critics.body.step(rows.obs_tm1, ())[0]
    return made, made.critics(features, unit)[..., 0].numpy(), reward
