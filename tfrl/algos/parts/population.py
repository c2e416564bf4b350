"""What evolution strategies and augmented random search share: settings, the perturbed policy, and its learner.

A member of a population acts with the weights theta + sigma eps, held for an episode; its partner has theta - sigma
eps. The learner gets returns, makes the directions eps again from their seeds, and steps along a weighted sum of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfrl.agent import Agent, Learner, Network, Population, Queue
from tfrl.errors import SettingError
from tfrl.explore import noise as noises
from tfrl.nn import distributions, inputs, torsos
from tfrl.nn.body import ModelSettings
from tfrl.nn.members import MemberNetwork
from tfrl.nn.normalise import ObservationMoments, ObservationNormaliser
from tfrl.optim import apply
from tfrl.optim import settings as optim_settings
from tfrl.settings import setting, with_default
from tfrl.types import EnvSpec, Members, NoiseSpec, PolicyStep, UpdateOutput

DIRECTION, ACTION = "direction", "action"  # names of noise
QUEUE_ITEMS = 1_000  # results that may wait for the learner
NO_LIMIT = (
    "{name} has no known time limit: an iteration waits for every episode to end, and so would total_env_steps; "
    "--max_episode_steps sets a limit"
)
CHUNK_BYTES = 2**24  # of directions that are made at once


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of both, a base of their `Config`s before `OptimizerSettings`."""

    noise_stdev: float = setting(
        0.02, "standard deviation of the perturbations of the weights", above=0.0
    )
    noise_source: str = setting(
        "seed",
        "seed: perturbations are made of seeds; table: they are parts of one table of random numbers in memory that "
        "all processes share",
        choices=("seed", "table"),
    )
    noise_size: int = setting(
        25_000_000,
        "numbers in the table, 4 bytes each",
        minimum=1,
        idle_if={"noise_source": "seed"},
    )
    common_random_numbers: bool = setting(
        False,
        "both signs of a perturbation play an episode of the same seed, where environments can be seeded one by one",
    )
    reward_shift: float = setting(
        0.0,
        "subtracted from every reward of training, but not from logged returns, e.g. a bonus for staying alive",
    )
    l2_coeff: float = setting(
        0.0,
        "L2 penalty: this times half the sum of squared weights is subtracted from what is maximised; 0: none",
        minimum=0.0,
    )
    action_noise: float = setting(
        0.0,
        "standard deviation of the noise on Box actions in training, in units of the action; 0: none",
        minimum=0.0,
        idle_if={"box_actions": False},
    )
    policy: str = setting(
        "mlp",
        "linear: a matrix without a bias that starts at zero; mlp: hidden layers with biases",
        choices=("linear", "mlp"),
    )
    hidden_sizes: tuple[int, ...] = setting(
        (64, 64),
        "units per hidden layer",
        unit="units",
        minimum=1,
        idle_if={"policy": "linear"},
    )
    activation: str = setting(
        "tanh", "activation function of the hidden layers", idle_if={"policy": "linear"}
    )
    core: str = setting(
        "none", "recurrent memory before the output", choices=("none", "gru", "lstm")
    )
    core_size: int = with_default(ModelSettings, "core_size", 32)
    normalize_observations: bool = with_default(ModelSettings, "normalize_observations", False)
    observation_clip: float = with_default(ModelSettings, "observation_clip", 10.0)


class PopulationPolicy(tf.Module):
    """The best action of a network whose weights are perturbed for a whole episode of training.

    Args:
      config: `Settings`.
      spec: environment spec.

    Attributes:
      network: with the weights that are perturbed.
      noise: of training: the direction of an episode, and noise on Box actions.
      normaliser: of observations, or None.
    """

    def __init__(self, config: Settings, spec: EnvSpec):
        super().__init__()
        self._stdev, self._action_noise = config.noise_stdev, config.action_noise
        self._space = spec.observation_space
        self._distribution = distributions.make(spec.action_space)
        self.normaliser = None
        if config.normalize_observations:
            self.normaliser = ObservationNormaliser(
                spec.observation_space, limit=config.observation_clip
            )
        # Standard deviations of Boxes are no outputs: they are fixed.
        total = self._distribution.num_params
        spread = sorted(self._distribution.deviations.values(), key=lambda part: part.start)
        bounds = [0, *(n for part in spread for n in (part.start, part.stop)), total]
        self._sizes = [b - a for a, b in zip(bounds, bounds[1:])]  # outputs and deviations in turn
        outputs = sum(self._sizes[::2])
        linear = config.policy == "linear"
        features = self._features(torsos.example_batch(spec.observation_space, 1)).shape[-1]
        self.network = MemberNetwork(
            features, () if linear else config.hidden_sizes, outputs, config.activation,
            config.core, config.core_size, bias=not linear, zeros=linear,
        )  # fmt: skip
        table = config.noise_size if config.noise_source == "table" else 0
        size = self.network.num_weights
        if table and table < size:
            raise SettingError(
                f"noise_size={table:,}: the policy has {size:,} weights; expected a table of at least so many numbers"
            )
        self.noise = {
            DIRECTION: NoiseSpec((size,), "normal", hold_env_steps=None, seeded=True, table=table)
        }
        self._is_mean = _means(self._sizes)
        if config.action_noise and spread:
            self.noise[ACTION] = NoiseSpec((outputs,), "normal")

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """All weights, in the order of the flat vector."""
        return self.network.ordered

    def initial_state(self, batch_size: int, noise: Mapping[str, Any]) -> Any:
        """Implements `Policy.initial_state`: with a direction the perturbed 'weights' of each row and the 'memory'.

        Without one the memory alone; () where there is none.
        """
        memory = self.network.initial_memory(batch_size)
        if DIRECTION not in noise:
            return memory
        # theta + sigma eps of each row.
        weights = self.network.perturbed(self._stdev * tf.convert_to_tensor(noise[DIRECTION]))
        return {"weights": tuple(weights), "memory": memory}

    def step(
        self,
        obs: Any,
        state: Any,
        knobs: Mapping[str, tf.Tensor],
        noise: Mapping[str, tf.Tensor],
        explore: bool,
    ) -> PolicyStep:
        """Implements `Policy.step`: the action of the row's own weights where the state has any, else of the policy's;
        exploring, noise is added to Box actions.
        """
        del knobs
        perturbed = isinstance(state, dict)
        weights = list(state["weights"]) if perturbed else self.network.weights
        memory = tuple(state["memory"] if perturbed else state)
        outputs, memory = self.network(self._features(obs), memory, weights)
        if explore and ACTION in self.noise:
            outputs += self._action_noise * self._is_mean * noise[ACTION]
        # The deviations of Boxes, which the best action does not depend on, stand between the outputs.
        parts = tf.split(outputs, self._sizes[::2], axis=-1)
        for i, size in enumerate(self._sizes[1::2]):
            parts.insert(2 * i + 1, tf.zeros([outputs.shape[0] or tf.shape(outputs)[0], size]))
        params = tf.concat(parts, -1) if len(parts) > 1 else outputs
        mask = inputs.action_mask(obs)
        if mask is not None:
            params = self._distribution.mask(params, mask)
        action = self._distribution.action(self._distribution.mode(params))
        return PolicyStep(action, {**state, "memory": memory} if perturbed else memory, {})

    def _features(self, obs: Any) -> tf.Tensor:
        """Raw observations -> float32 [B, F], normalised."""
        obs = obs if self.normaliser is None else self.normaliser(obs)
        return inputs.flatten(inputs.model_input(obs), inputs.model_space(self._space))


def _means(sizes: list[int]) -> np.ndarray:
    """Float32 [outputs], 1 where an output is the mean of a Box: as many as the deviations that follow."""
    flags: list[float] = []
    for outputs, deviations in zip(sizes[::2], [*sizes[1::2], 0]):
        flags += [0.0] * (outputs - deviations) + [1.0] * deviations
    return np.array(flags, np.float32)


class PopulationLearner(Learner):
    """Steps along the weighted sum of the directions of a population.

    Args:
      config: `Settings` and `OptimizerSettings`.
      spec: environment spec.
      weigh: (returns float64 [n, 2] of both signs, valid bool [n]) -> weights float64 [n] of the directions.
    """

    def __init__(
        self, config: Any, spec: EnvSpec, weigh: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    ):
        super().__init__()
        self._config, self._weigh = config, weigh
        self.policy = PopulationPolicy(config, spec)
        self.env_steps = optim_settings.make_clock(config)
        self.optimizer = optim_settings.make(
            config, self.policy.trainable_variables, self.env_steps
        )
        self._moments = None
        if config.normalize_observations:
            self._moments = ObservationMoments(spec.observation_space)

    def update(self, batch: Members, seed: tf.Tensor) -> UpdateOutput:
        """Implements `Learner.update`: one step of the optimiser; `seed` is not read, and there are no priorities."""
        del seed
        config, network = self._config, self.policy.network
        # Returns of training: without the shift of every step, the signs of a direction side by side.
        shifted = batch.returns - config.reward_shift * tf.cast(batch.lengths, tf.float64)
        returns, valid = tf.reshape(shifted, [-1, 2]), tf.reshape(batch.valid, [-1, 2])[:, 0]
        # The sum of the directions, each with its weight, is the way up.
        weights = tf.cast(self._weigh(returns, valid), tf.float32)
        ascent = weighted_directions(self.policy.noise[DIRECTION], batch.seed, weights)
        # What is minimised: minus the return, and half of the squared weights.
        variables = network.ordered
        gradients = [
            config.l2_coeff * v.read_value() - g for v, g in zip(variables, network.split(ascent))
        ]
        rate = optim_settings.learning_rate(config, self.env_steps, self.optimizer.iterations)
        norm = apply.step(self.optimizer, gradients, variables, config.gradient_clip_norm)
        # Statistics of the iteration's observations, once, for the next iteration.
        if self._moments is not None:
            count = tf.reduce_sum(tf.cast(tf.where(batch.valid, batch.lengths, 0), tf.float64))
            sums = tf.nest.map_structure(lambda x: tf.reduce_sum(x, 0), dict(batch.moments))
            self._moments.merge_sums(count, sums)
            self.policy.normaliser.update(self._moments)
        metrics = {
            "learner/gradient_norm": norm,
            "learner/learning_rate": rate,
            "learner/weights_norm": tf.linalg.global_norm([v.read_value() for v in variables]),
            **_statistics(batch),
        }
        return UpdateOutput(metrics, priorities=None)

    def adopt(self, env_steps: int) -> None:
        """Implements `Learner.adopt`: continues from the policy's statistics of observations."""
        if self._moments is not None:
            self._moments.adopt(self.policy.normaliser, env_steps)

    def networks(self) -> tuple[Network, ...]:
        """Implements `Learner.networks`: the policy."""
        network = self.policy.network
        return (Network("policy", network.ordered, self.optimizer, outputs=(network.kernel,)),)


def weighted_directions(spec: NoiseSpec, seed: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The sum of weights[i] times draw i of a seed, float32 [P].

    Args:
      spec: of draws of one axis [P].
      seed: int32 [2].
      weights: float32 [n].
    """
    count, (size,) = weights.shape[0], spec.shape
    each = max(1, min(count, CHUNK_BYTES // (4 * size)))

    def add(first: tf.Tensor, total: tf.Tensor, many: int) -> tf.Tensor:
        chunk = noises.draws(spec, seed, first, many)
        return total + tf.reduce_sum(weights[first : first + many, None] * chunk, 0)

    total, whole = tf.zeros([size]), count // each
    if whole == 1:
        total = add(tf.constant(0), total, each)
    else:
        _, total = tf.while_loop(
            lambda i, total: i < whole,
            lambda i, total: (i + 1, add(i * each, total, each)),
            (tf.constant(0), total),
            parallel_iterations=1,
        )
    rest = count - whole * each
    return add(tf.constant(whole * each), total, rest) if rest else total


def _statistics(batch: Members) -> dict[str, tf.Tensor]:
    """Metrics of the members' returns, without the shift; float32 scalars."""
    mask = tf.cast(batch.valid, tf.float64)
    count = tf.reduce_sum(mask)
    mean = tf.reduce_sum(batch.returns * mask) / count
    variance = tf.reduce_sum(mask * (batch.returns - mean) ** 2) / count
    lowest = tf.fill(tf.shape(mask), tf.constant(float("-inf"), tf.float64))
    found = {
        "learner/population_episodes": count,
        "learner/population_return_mean": mean,
        "learner/population_return_std": tf.sqrt(variance),
        "learner/population_return_max": tf.reduce_max(
            tf.where(batch.valid, batch.returns, lowest)
        ),
    }
    return {name: tf.cast(x, tf.float32) for name, x in found.items()}


def make_agent(
    algo: str,
    config: Any,
    spec: EnvSpec,
    members: int,
    min_env_steps: int,
    weigh: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Agent:
    """An agent of the family.

    Args:
      algo: its name, for messages.
      config: `Settings` and `OptimizerSettings`.
      members: of a round, both signs.
      min_env_steps: of an iteration.
      weigh: as `PopulationLearner` takes it.

    Raises:
      SettingError: settings that do not fit the environment's spaces.
    """
    try:
        distributions.make(spec.action_space)
    except SettingError as error:
        raise SettingError(f"algo={algo} on {spec.name}: {error}") from error
    torsos.check_activation(config.activation)
    PopulationPolicy(config, spec)  # a table that is too small is refused now
    item = Population(
        members, min_env_steps, config.common_random_numbers, config.normalize_observations
    )
    return Agent(
        make_policy=lambda: PopulationPolicy(config, spec),
        make_learner=lambda: PopulationLearner(config, spec, weigh),
        experience=Queue(item, QUEUE_ITEMS, batch_items=1, actors_wait=True),
        knobs=lambda place, env_steps, facts: {},
        notes=() if spec.max_episode_steps else (NO_LIMIT.format(name=spec.name),),
    )
