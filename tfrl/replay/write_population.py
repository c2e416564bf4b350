"""From vector steps to results of a population's members."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfrl.nn.normalise import by_path
from tfrl.replay.bounded import bounded
from tfrl.replay.local_queue import Sink
from tfrl.replay.population import Collector, PopulationLayout
from tfrl.replay.writer import Writer
from tfrl.types import EnvSpec, PolicyStep, VectorStep


class PopulationWriter(Writer):
    """Adds up the rewards and the moments of observations of each row's episode, and hands over the results.

    Args:
      spec: environment spec.
      layout: of the results.
      sink: where they go, or the whole iterations.
      num_envs: B.
      seed: of the run's populations.
      collector: makes whole iterations of the results here; None: results are sent as they are.
      patience: see `bounded`.

    Attributes:
      collector: see above.
    """

    def __init__(
        self,
        spec: EnvSpec,
        layout: PopulationLayout,
        sink: Sink,
        num_envs: int,
        seed: int,
        collector: Collector | None = None,
        patience: Callable[[], None] | None = None,
    ):
        self.items_written, self.collector = 0, collector
        self._layout, self._sink, self._seed, self._patience = layout, sink, seed, patience
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._space, self._width = spec.observation_space, layout.width // 2
        self._moments = np.zeros((num_envs, layout.width))
        self._waiting: list[tuple[int, float, int, np.ndarray]] = []
        self._version = 0

    def record(self, obs: Any, state: Any, choice: PolicyStep, step: VectorStep) -> None:
        """Implements `Writer.record`; rows that rest are recorded too, and begun anew by `begin`."""
        self._returns += step.reward
        self._lengths += step.valid
        if self._width:
            x = self._vectors(obs)
            if not step.valid.all():
                x *= step.valid[:, None]
            self._moments[:, : self._width] += x
            x *= x
            self._moments[:, self._width :] += x

    def begin(self, row: int) -> None:
        """An episode begins in a row."""
        self._returns[row], self._lengths[row], self._moments[row] = 0.0, 0, 0.0

    def finish(self, row: int, member: int) -> int:
        """The episode of a row has ended; returns its env steps. Its result is handed over, or by the next `flush`."""
        length = int(self._lengths[row])
        result = (member, float(self._returns[row]), length, self._moments[row].copy())
        self._waiting.append(result)
        if self.collector is not None:
            self._hand_over()
        return length

    def load(self, arrays: Any, version: int, priority: float) -> None:
        """Implements `Writer.load`: results from now on are of `version`; others that wait are of no use."""
        del arrays, priority
        if version != self._version:
            self._waiting.clear()
        self._version = version

    def flush(self, pending: int = 0) -> None:
        """Implements `Writer.flush`."""
        self._hand_over()
        self.waited_s += bounded(functools.partial(self._sink.flush, pending), self._patience)

    def state(self) -> dict[str, Any]:
        """Implements `Writer.state`: results of the unfinished iteration; open episodes are played again."""
        return {} if self.collector is None else self.collector.state(self._seed)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Implements `Writer.restore`."""
        if state and self.collector is not None:
            self.collector.restore(state)

    def close(self) -> None:
        """Implements `Writer.close`."""
        self._sink.close()

    def _vectors(self, obs: Any) -> np.ndarray:
        """The leaves whose moments are kept, side by side, a new array float64 [B, width / 2]."""
        if isinstance(obs, np.ndarray):
            return obs.reshape(len(obs), -1).astype(np.float64)
        parts = by_path(obs, self._space)
        rows = [parts[path].reshape(len(self._lengths), -1) for path in self._layout.shapes]
        return np.concatenate(rows, axis=1).astype(np.float64)

    def _hand_over(self) -> None:
        if not self._waiting:
            return
        columns = [list(column) for column in zip(*self._waiting)]
        self._waiting.clear()
        item: Any = self._layout.results(self._version, self._seed, *columns)
        if self.collector is not None:
            item = self.collector.add(item)
        if item is not None:
            self._sink.append(item, 1.0)
            self.items_written += 1
