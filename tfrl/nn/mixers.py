"""Mixers: from the action values of a team's agents to the value of their joint action.

Both are monotonic, dQ_tot / dq_i >= 0, so each agent's own best action is its part of the best joint action.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfrl.errors import SettingError
from tfrl.settings import nearest, setting

KINDS = ("qmix", "vdn")
_WITHOUT_WEIGHTS = frozenset(("vdn", "none", "iql"))


@dataclasses.dataclass(frozen=True)
class MixerSettings:
    """Settings of a mixer, a base of `Config`s."""

    mixer: str = setting(
        "qmix",
        "from the agents' action values to the team's: qmix (a network with weights chosen by the state), vdn (their "
        "sum), or none (iql is another word for it): each agent learns by itself",
        choices=(*KINDS, "none", "iql"),
    )
    mixing_embed_size: int = setting(
        32,
        "width of the mixing network",
        unit="units",
        minimum=1,
        idle_if={"mixer": _WITHOUT_WEIGHTS},
    )
    hypernet_layers: int = setting(
        1,
        "layers of the networks that turn the state into weights of the mixing network: one linear layer, or a hidden "
        "one before it",
        unit="layers",
        choices=(1, 2),
        idle_if={"mixer": _WITHOUT_WEIGHTS},
    )
    hypernet_size: int = setting(
        64,
        "units of the hidden layer before the weights of the mixing network",
        unit="units",
        minimum=1,
        idle_if=({"mixer": _WITHOUT_WEIGHTS}, {"hypernet_layers": 1}),
    )


def make(config: Any, num_agents: int, state_size: int) -> QMixer | VDNMixer | None:
    """The mixer that `MixerSettings` ask for; None without one."""
    if config.mixer in ("none", "iql"):
        return None
    if config.mixer == "vdn":
        return VDNMixer(num_agents, state_size)
    if config.mixer == "qmix":
        return QMixer(
            num_agents, state_size, config.mixing_embed_size, config.hypernet_layers,
            config.hypernet_size,
        )  # fmt: skip
    raise SettingError(
        f"mixer={config.mixer!r}: expected qmix, vdn or none{nearest(config.mixer, KINDS)}"
    )


class QMixer(tf.Module):
    """Q_tot = elu(q W1 + b1) . w2 + v, of which the state makes every weight (Rashid et al. 2018, section 4.1).

    W1 = |H1 s + h1| [N, E], b1 = H2 s + h2 [E], w2 = |H3 s + h3| [E] and v = V2 relu(V1 s + v1) + v2. No weight that a
    value passes is negative, hence the monotonicity.

    Args:
      num_agents: N.
      state_size: S.
      embed_size: E.
      hypernet_layers: layers that make W1 and w2: 1, or 2 with a ReLU between them.
      hypernet_size: units of the first of two layers.

    Raises:
      SettingError: another number of layers.
    """

    def __init__(
        self,
        num_agents: int,
        state_size: int,
        embed_size: int = 32,
        hypernet_layers: int = 1,
        hypernet_size: int = 64,
    ):
        super().__init__()
        if hypernet_layers not in (1, 2):
            raise SettingError(f"hypernet_layers={hypernet_layers!r}: expected 1 or 2")
        self._num_agents, self._embed_size = num_agents, embed_size
        hidden = [hypernet_size] * (hypernet_layers - 1)
        self._weights_1 = _Layers([*hidden, num_agents * embed_size], "weights_1")
        self._bias_1 = _Layers([embed_size], "bias_1")
        self._weights_2 = _Layers([*hidden, embed_size], "weights_2")
        self._value = _Layers([embed_size, 1], "value")
        self(tf.zeros([1, num_agents]), tf.zeros([1, state_size]))  # builds the variables

    def __call__(self, q: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """Value of the joint action float32 [n].

        Args:
          q: action value of each agent's own action [n, N].
          state: of the environment, float32 [n, S].

        Raises:
          ValueError: ranks or shapes that do not fit.
        """
        _check(q, state, self._num_agents)
        # The state's weights of the first layer, none negative, and the hidden units [n, E].
        weights = tf.abs(self._weights_1(state))
        weights = tf.reshape(weights, [-1, self._num_agents, self._embed_size])
        hidden = tf.reduce_sum(q[:, :, None] * weights, axis=1) + self._bias_1(state)
        hidden = tf.nn.elu(hidden)
        # The weights of the second layer, and the state's own value.
        total = tf.reduce_sum(hidden * tf.abs(self._weights_2(state)), axis=1)
        return total + tf.squeeze(self._value(state), 1)

    @property
    def output_kernels(self) -> tuple[tf.Variable, ...]:
        """Weights of the layers that give the outputs, see `agent.Network.outputs`."""
        parts = (self._weights_1, self._bias_1, self._weights_2, self._value)
        return tuple(part.layers[-1].kernel for part in parts)


class VDNMixer(tf.Module):
    """Q_tot = sum of the agents' values (Sunehag et al. 2018); without variables, the state is not read.

    Args:
      num_agents: N.
      state_size: not read.
    """

    output_kernels: tuple[tf.Variable, ...] = ()

    def __init__(self, num_agents: int, state_size: int = 0):
        super().__init__()
        del state_size
        self._num_agents = num_agents

    def __call__(self, q: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """Like `QMixer`: [n, N], [n, S] -> [n]."""
        _check(q, state, self._num_agents)
        return tf.reduce_sum(q, axis=1)


class _Layers(tf.Module):
    """Dense layers [n, S] -> [n, sizes[-1]] with ReLUs between them."""

    def __init__(self, sizes: list[int], name: str):
        super().__init__(name)
        self.layers = [tf.keras.layers.Dense(size, dtype="float32") for size in sizes]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self.layers[:-1]:
            x = tf.nn.relu(layer(x))
        return self.layers[-1](x)


def _check(q: tf.Tensor, state: tf.Tensor, num_agents: int) -> None:
    if q.shape.rank != 2 or q.shape[1] != num_agents:
        raise ValueError(f"q: expected shape [n, {num_agents}], got {q.shape}")
    if state.shape.rank != 2:
        raise ValueError(f"state: expected rank 2, got shape {state.shape}")
    q.shape[:1].assert_is_compatible_with(state.shape[:1])
