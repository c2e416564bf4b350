"""Results of the members of a population: their layout, and how they become whole iterations.

An actor sends numbers of finished episodes. A `Collector` takes each member's result once, whoever sends it again, and
drops those of other iterations. It asks for another round while an iteration has too few env steps. So an iteration is
the same whoever has played it, and in whichever order its episodes have ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from tfrl.agent import Population
from tfrl.nn.normalise import normalised_leaves
from tfrl.replay.layout import Layout
from tfrl.replay.tables import EXPERIENCE
from tfrl.types import EnvSpec, Members

Item = Mapping[str, np.ndarray]

# Facts between a learner and its actors: rounds of the present iteration, and which learner counts them.
ROUNDS, COLLECTOR = "population_rounds", "population_collector"


class PopulationLayout(Layout):
    """How results are stored: columns with a row for each member, of one member or of all of an iteration.

    Args:
      spec: environment spec.
      item: the population.

    Attributes:
      item: see above.
      columns: members of a round.
      shapes: {path: shape} of the leaves of an observation whose moments are kept; {} without moments.
      width: numbers of a member's moments: sums of all leaves, then sums of squares.
    """

    def __init__(self, spec: EnvSpec, item: Population):
        self.item, self.columns = item, item.count
        boxes = normalised_leaves(spec.observation_space) if item.moments else {}
        self.shapes = {path: tuple(box.shape) for path, box in boxes.items()}
        self.width = 2 * sum(math.prod(shape) for shape in self.shapes.values())

    def signature(self) -> dict[str, tf.TensorSpec]:
        """Implements `Layout.signature`."""
        return {
            "facts": tf.TensorSpec([2], tf.int64, "facts"),
            "member": tf.TensorSpec([None], tf.int64, "member"),
            "returns": tf.TensorSpec([None], tf.float64, "returns"),
            "length": tf.TensorSpec([None], tf.int64, "length"),
            "moments": tf.TensorSpec([None, self.width], tf.float64, "moments"),
        }

    def results(
        self,
        version: int,
        seed: int,
        member: Any,
        returns: Any,
        length: Any,
        moments: Any,
    ) -> dict[str, np.ndarray]:
        """An item of some members.

        Args:
          version: updates behind the weights that were perturbed.
          seed: of the run's populations.
          member, returns, length: of each member [n]; a member of -1 is padding.
          moments: [n, width].
        """
        return {
            "facts": np.array([version, seed], np.int64),
            "member": np.asarray(member, np.int64),
            "returns": np.asarray(returns, np.float64),
            "length": np.asarray(length, np.int64),
            "moments": np.asarray(moments, np.float64).reshape(len(member), self.width),
        }

    def decode(
        self, columns: Mapping[str, tf.Tensor], probability: tf.Tensor | None = None
    ) -> Members:
        """Implements `Layout.decode`: of one whole iteration."""
        del probability
        version, seed = tf.unstack(columns["facts"][0])
        return Members(
            seed=tf.cast(tf.stack([seed, version]), tf.int32),
            returns=columns["returns"][0],
            lengths=columns["length"][0],
            valid=columns["member"][0] >= 0,
            moments=self._moments(columns["moments"][0]),
            version=version,
        )

    def share(self, batch: Members, index: tf.Tensor, count: int) -> Members:
        """All of it: every replica makes the same update."""
        del index, count
        return batch

    def same_row(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Implements `Layout.same_row`."""
        return shapes["moments"][-1] == self.width

    def _moments(self, rows: tf.Tensor) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Float64 [n, width] -> {path: (sum, sum of squares)} [n, *shape]."""
        if not self.shapes:
            return {}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = tf.split(rows, 2 * sizes, axis=1)
        shaped = [
            tf.reshape(x, [-1, *shape]) for x, shape in zip(parts, 2 * list(self.shapes.values()))
        ]
        return dict(zip(self.shapes, zip(shaped, shaped[len(sizes) :])))


class Results:
    """Results in the table of a server as they come, each once; `next` waits."""

    def __init__(self, client: reverb.Client):
        self._samples = client.sample(
            EXPERIENCE, 2**31 - 1, emit_timesteps=False, unpack_as_table_signature=True
        )

    def next(self) -> dict[str, np.ndarray]:
        """The next item, however long it takes; raises what Reverb raises when the server goes away."""
        return next(self._samples).data


class Collector:
    """Makes whole iterations of results.

    Args:
      layout: of the results.
      version: updates behind the weights of the first iteration.

    Attributes:
      version: of the present iteration.
      rounds: asked for in it.
    """

    def __init__(self, layout: PopulationLayout, version: int):
        self._layout, self.version, self.rounds = layout, version, 1
        self._found: dict[int, tuple[float, int, np.ndarray]] = {}
        self._env_steps = 0

    @property
    def known(self) -> frozenset[int]:
        """Members whose results are here."""
        return frozenset(self._found)

    def add(self, item: Item) -> dict[str, np.ndarray] | None:
        """Takes results; returns the whole iteration where they complete it, in the order of its members."""
        version, seed = item["facts"].tolist()
        if version != self.version:
            return None
        rows = zip(item["member"].tolist(), item["returns"].tolist(), item["length"].tolist())
        for i, (member, episode_return, length) in enumerate(rows):
            if member not in self._found:
                self._found[member] = (episode_return, length, item["moments"][i].copy())
                self._env_steps += length
        population = self._layout.item
        if len(self._found) < self.rounds * population.count:
            return None
        if self._env_steps < population.min_env_steps:
            self.rounds += 1
            return None
        return self._whole(seed)

    def _whole(self, seed: int) -> dict[str, np.ndarray]:
        """The iteration, padded to a power of two of rounds, since every new size is traced anew."""
        count, padded = len(self._found), 1
        while padded < self.rounds:
            padded *= 2
        rows = padded * self._layout.item.count
        member, length = np.full(rows, -1, np.int64), np.zeros(rows, np.int64)
        returns, moments = np.zeros(rows), np.zeros((rows, self._layout.width))
        member[:count] = np.arange(count)
        for i in range(count):
            returns[i], length[i], moments[i] = self._found[i]
        item = self._layout.results(self.version, seed, member, returns, length, moments)
        self._found, self._env_steps, self.rounds = {}, 0, 1
        self.version += 1
        return item

    def state(self, seed: int) -> dict[str, Any]:
        """The unfinished iteration, for `restore`."""
        members = sorted(self._found)
        found = [self._found[m] for m in members]
        columns = [list(x) for x in zip(*found)] if found else [[], [], np.zeros((0, 1))]
        item = self._layout.results(self.version, seed, members, *columns)
        return {"item": item, "rounds": self.rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state` of a collector over the same layout."""
        self.version, self.rounds = int(state["item"]["facts"][0]), state["rounds"]
        self._found, self._env_steps = {}, 0
        self.add(state["item"])
