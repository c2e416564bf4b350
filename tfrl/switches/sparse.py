"""Dynamic sparse training: networks that are sparse from the first update, with connections that are rewired.

What it is: Sokar et al. 2022 for any algorithm that declares its networks. The hidden kernels begin with an Erdos-Renyi
mask. After each optimiser step the weights outside of it are set to 0. Every so many updates a share of the weights of
each sign, those nearest to 0, is dropped, and as many grow at random places, from 0. Target copies are cut back to the
number of weights of their originals after each copy.

What it is not: faster. Products stay dense; the gain is in counted parameters and operations, and in the policy that is
exported, whose masked weights are exact zeros. Output layers, biases and noisy layers stay dense, and so do
convolutions without `sparse_convolutions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfrl.agent import Agent, Delayed, Learner, Network, Periodic
from tfrl.errors import SettingError
from tfrl.nn import sparsity
from tfrl.optim import apply
from tfrl.optim.lamb import LayerWise
from tfrl.settings import Except, setting, validate
from tfrl.types import EnvSpec, UpdateOutput

ARTIFACT = "sparse_training"
_METRICS = (
    "learner/sparse_parameters",
    "learner/sparse_parameters_ratio",
    "learner/sparse_rewirings",
    "learner/sparse_flops",
    "learner/sparse_flops_ratio",
)
STATIC = {"sparse_rewire_updates": 0}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the switch."""

    sparse_density: float = setting(
        0.5,
        "fraction of the weights of the sparse layers of each network that are active; spread over them as "
        "Erdos-Renyi densities",
        above=0.0,
        maximum=1.0,
        idle_if={"sparse_lambdas": Except([()])},
    )
    sparse_lambdas: tuple[float, ...] = setting(
        (),
        "lambda of each sparse layer of a network, in their order: lambda (n_in + n_out) / (n_in n_out) of "
        "its weights are active; empty: follows from sparse_density",
        above=0.0,
    )
    sparse_convolutions: bool = setting(
        False, "kernels of three or more axes are sparse too, with densities of ERK"
    )
    sparse_rewire_updates: int = setting(
        1_000, "interval between rewirings; 0: the mask is static", unit="updates", minimum=0
    )
    sparse_drop: float = setting(
        0.05,
        "fraction of the active weights of each sign that a rewiring drops (zeta)",
        minimum=0.0,
        maximum=1.0,
        idle_if=STATIC,
    )
    sparse_stop_env_steps: int | None = setting(
        None,
        "env steps of the run after which the next rewiring only drops, and is the last one; none: rewiring "
        "goes on to the end",
        unit="env steps",
        minimum=1,
        idle_if=STATIC,
    )
    sparse_moments: str = setting(
        "warm",
        "optimiser moments of inactive weights: warm (they see the dense gradient) or frozen (they see zeros and "
        "decay)",
        choices=("warm", "frozen"),
    )

    def __post_init__(self) -> None:
        validate(self)


class Topology(tf.Module):
    """The masks of sparse kernels and all that changes them.

    Made with the networks, under their strategy. What is a variable here is in checkpoints.

    Args:
      config: settings of the switch.
      declared: the trained networks and their target copies.
      owner: whose networks they are, for messages.
      seed: of masks and growth; None: TensorFlow's global seed decides.

    Attributes:
      rewirings: int64 variable, made so far.

    Raises:
      SettingError: no network, no hidden kernel in any, or not as many lambdas as there are.
    """

    def __init__(
        self, config: Config, declared: Sequence[Network], owner: str, seed: int | None = None
    ):
        super().__init__()
        self._config = config
        networks = [network for network in declared if network.copy_of is None]
        copies = [network for network in declared if network.copy_of is not None]
        if not networks:
            raise SettingError(
                f"with=sparse: {owner} declares no networks; expected a learner with `networks`"
            )
        sparse = {n.name: _sparse_kernels(config, n) for n in networks}
        if not any(sparse.values()):
            names = ", ".join(sparse)
            raise SettingError(
                f"with=sparse: no layer of the networks {names} can be sparse; expected a dense hidden layer, or "
                "convolutions with sparse_convolutions"
            )
        shares = [share for n in networks for share in _densities(config, n, sparse[n.name])]
        self._kernels = [kernel for n in networks for kernel in sparse[n.name]]
        # Weights of each seed are drawn by (seed, rewirings), the first ones by (seed, 0); none is negative.
        count = len(self._kernels)
        most = tf.int32.max
        self._seeds = _variable(
            tf.random.uniform([count], maxval=most, dtype=tf.int32)
            if seed is None
            else tf.random.stateless_uniform([count], [seed, 0], 0, most, tf.int32),
            "seeds",
        )
        seeds = self._seeds.numpy()
        drawn = [
            sparsity.draw(kernel.shape, share, tf.constant([seed, 0]), kernel.dtype)
            for kernel, share, seed in zip(self._kernels, shares, seeds, strict=True)
        ]
        self._masks = [_variable(mask, "mask") for mask in drawn]
        self._active = _variable(tf.stack([sparsity.nonzeros(mask) for mask in drawn]), "active")
        self.rewirings = _variable(tf.zeros([], tf.int64), "rewirings")
        self._ended = _variable(tf.constant(False), "ended")
        self._copies = [
            (copy.variables[place], index)
            for copy in copies
            for place, original in enumerate(_network(networks, copy.copy_of).variables)
            for index, kernel in enumerate(self._kernels)
            if kernel is original
        ]
        # What stays dense: weights of kernels, and all others.
        sizes = [v.shape.num_elements() for v in self._kernels]
        kernels = [v.shape.num_elements() for n in networks for v in n.kernels]
        everything = [v.shape.num_elements() for n in networks for v in n.variables]
        self._parameters, self._weights = sum(everything), sum(kernels)
        self._dense_parameters = sum(everything) - sum(sizes)
        self._dense_weights = sum(kernels) - sum(sizes)
        # Of a convolution the operations depend on the size of its input, which a kernel does not know.
        self._counts_flops = all(v.shape.rank == 2 for n in networks for v in n.kernels)
        numbers = self._measured(tf.convert_to_tensor(self._active), tf.constant(0))
        self._numbers = _variable(numbers, "numbers")
        masks = list(zip(self._kernels, self._masks, strict=True))
        for optimizer in {id(n.optimizer): n.optimizer for n in networks}.values():
            if config.sparse_moments == "frozen":
                apply.mask_gradients(optimizer, masks)
            self.bind(optimizer)
        self.start()

    def bind(self, optimizer: Any) -> bool:
        """Lets LAMB and LARS count the active weights alone, also inside a `LossScaleOptimizer`.

        Returns:
          Whether it is one of them; what has been traced with it must be traced anew.
        """
        return _mask(optimizer, tuple(zip(self._kernels, self._masks, strict=True)))

    def unbind(self, optimizer: Any) -> bool:
        """The opposite of `bind`."""
        return _mask(optimizer, ())

    def start(self) -> None:
        """Sets the inactive weights to 0, of copies too; in cross-replica context."""
        for kernel, mask in zip(self._kernels, self._masks, strict=True):
            kernel.assign(kernel * mask)
        for copy, index in self._copies:
            copy.assign(copy * self._masks[index])

    def adopt(self, policy: Any) -> None:
        """Makes the largest weights of the policy the active ones, as many as before, and starts with these."""
        adopted = {id(variable) for variable in policy.variables}
        for index, (kernel, mask) in enumerate(zip(self._kernels, self._masks, strict=True)):
            if id(kernel) in adopted:
                mask.assign(sparsity.largest(kernel, self._active[index]))
        self.start()

    def project(self) -> None:
        """Sets the inactive weights to 0; in replica context, each replica its own."""
        for kernel, mask in zip(self._kernels, self._masks, strict=True):
            value = kernel.read_value() * mask.read_value()
            tf.raw_ops.AssignVariableOp(resource=kernel.handle, value=value)

    def rewire(self, env_steps: tf.Variable | None) -> None:
        """Drops and grows in every sparse kernel; in cross-replica context.

        Args:
          env_steps: of the run so far; not read without `sparse_stop_env_steps`.
        """
        stop = self._config.sparse_stop_env_steps
        if stop is None:
            self._rewire(tf.constant(True))
            return
        grows = env_steps < stop
        tf.cond(self._ended, lambda: None, lambda: self._rewire(grows))

    def _rewire(self, grows: tf.Tensor) -> None:
        self.rewirings.assign_add(1)
        made, counts = tf.cast(self.rewirings, tf.int32), []
        for index, (kernel, mask) in enumerate(zip(self._kernels, self._masks, strict=True)):
            # A share of each sign goes, those nearest to 0.
            kept = sparsity.drop(kernel, tf.convert_to_tensor(mask), self._config.sparse_drop)
            # As many come at random places, where weights are 0.
            missing = tf.where(grows, self._active[index] - sparsity.nonzeros(kept), 0)
            seed = tf.stack([self._seeds[index], made])
            new = sparsity.grow(kept, missing, seed)
            mask.assign(new)
            kernel.assign(kernel * kept)
            counts.append(sparsity.nonzeros(new))
        active = tf.stack(counts)
        self._active.assign(active)
        self._numbers.assign(self._measured(active, made))
        self._ended.assign(tf.logical_not(grows))

    def prune_copies(self) -> None:
        """Cuts each copy back to the number of weights of its original that are not 0; in cross-replica context."""
        for copy, index in self._copies:
            count = sparsity.nonzeros(tf.convert_to_tensor(self._kernels[index]))
            copy.assign(sparsity.prune(tf.convert_to_tensor(copy), count))

    @property
    def has_copies(self) -> bool:
        """There are target copies of sparse kernels."""
        return bool(self._copies)

    def metrics(self) -> dict[str, tf.Tensor]:
        """Active parameters and operations of the trained networks, float32 scalars; in any context."""
        names = _METRICS if self._counts_flops else _METRICS[:3]
        return dict(zip(names, tf.unstack(self._numbers.read_value()), strict=True))

    def _measured(self, active: tf.Tensor, rewirings: tf.Tensor) -> tf.Tensor:
        """The values of `metrics`, float32 [3] or [5]; they change at rewirings only.

        Args:
          active: weights of each sparse kernel, int32.
          rewirings: made so far, int32 scalar.
        """
        active = tf.cast(tf.reduce_sum(active), tf.float32)
        parameters, weights = active + self._dense_parameters, active + self._dense_weights
        found = [parameters, parameters / self._parameters, tf.cast(rewirings, tf.float32)]
        flops = [2.0 * weights, weights / self._weights] if self._counts_flops else []
        return tf.stack(found + flops)

    def summary(self) -> dict[str, Any]:
        """Parameters and operations, sparse, dense and their ratio; plain data."""
        active = int(self._active.numpy().sum())
        parameters, weights = active + self._dense_parameters, active + self._dense_weights
        found: dict[str, Any] = {
            "parameters": parameters,
            "parameters_dense": self._parameters,
            "parameters_ratio": parameters / self._parameters,
            "weights_ratio": weights / self._weights,
            "rewirings": int(self.rewirings.numpy()),
        }
        if self._counts_flops:  # the backward pass takes twice those of the forward pass
            found |= {
                "forward_flops": 2 * weights,
                "forward_flops_dense": 2 * self._weights,
                "training_flops": 6 * weights,
                "training_flops_dense": 6 * self._weights,
                "flops_ratio": weights / self._weights,
            }
        return found


def agent(config: Config, spec: EnvSpec, agent: Agent) -> Agent:
    """The agent with a learner whose networks are sparse.

    Raises:
      SettingError: when the learner is made, see `Topology`.
    """
    del spec

    def make_learner() -> Learner:
        learner = agent.make_learner()
        _wrap(config, learner)
        return learner

    return dataclasses.replace(agent, make_learner=make_learner)


def _wrap(config: Config, learner: Learner) -> None:
    """Puts the masks into what a learner does; it stays the same object, so that its variables keep their names."""
    topology = Topology(config, list(learner.networks()), type(learner).__name__)
    learner.sparse_topology = topology
    if config.sparse_stop_env_steps is not None and learner.env_steps is None:
        learner.env_steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="env_steps")
    inner_update, inner_delayed, inner_periodic = (
        learner.update,
        learner.delayed,
        learner.periodic,
    )
    inner_adopt, inner_artifacts = learner.adopt, learner.artifacts

    def update(batch: Any, seed: Any) -> UpdateOutput:
        out = inner_update(batch, seed)
        topology.project()
        return out._replace(metrics={**out.metrics, **topology.metrics()})

    def delayed() -> Delayed | None:
        step = inner_delayed()
        if step is None:
            return None

        def fn(batch: Any, seed: Any) -> Any:
            metrics = step.fn(batch, seed)
            topology.project()
            return metrics

        return step._replace(fn=fn)

    def periodic() -> Sequence[Periodic]:
        found, every = list(inner_periodic()), config.sparse_rewire_updates
        rewiring = Periodic(every, lambda: topology.rewire(learner.env_steps), at_start=False)
        # Copies are made by functions of any period; cutting back what is sparse enough changes nothing.
        periods = {each.every_updates for each in found} if topology.has_copies else ()
        pruning = [Periodic(period, topology.prune_copies) for period in sorted(periods)]
        return (*([rewiring] if every else ()), *found, *pruning)

    def adopt(env_steps: int) -> None:
        inner_adopt(env_steps)
        topology.adopt(learner.policy)

    learner.update, learner.delayed, learner.periodic = update, delayed, periodic
    learner.adopt = adopt
    learner.artifacts = lambda: {**inner_artifacts(), ARTIFACT: topology.summary()}


def _network(networks: Sequence[Network], name: str) -> Network:
    return next(network for network in networks if network.name == name)


def _sparse_kernels(config: Config, network: Network) -> list[tf.Variable]:
    """The hidden kernels of a network that are to be sparse."""
    wide = config.sparse_convolutions
    return [v for v in network.hidden_kernels if wide or v.shape.rank == 2]


def _densities(config: Config, network: Network, kernels: Sequence[tf.Variable]) -> list[float]:
    """Share of active weights of each sparse kernel.

    Raises:
      SettingError: not as many lambdas as kernels.
    """
    shapes, lambdas = [v.shape.as_list() for v in kernels], config.sparse_lambdas
    if not lambdas:
        return [
            sparsity.density(s, sparsity.strength(shapes, config.sparse_density)) for s in shapes
        ]
    if kernels and len(lambdas) != len(kernels):
        given = ",".join(f"{x:g}" for x in lambdas)
        raise SettingError(
            f"sparse_lambdas={given}: network {network.name!r} has {len(kernels)} layers that can be sparse, of shapes "
            f"{shapes}; expected a lambda for each, or sparse_density"
        )
    return [sparsity.density(s, x) for s, x in zip(shapes, lambdas)]


def _mask(optimizer: Any, masks: tuple[tuple[tf.Variable, tf.Variable], ...]) -> bool:
    """Gives masks to LAMB or LARS, also inside another optimiser; whether it is one of them."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner, LayerWise):
        inner.mask(masks)
    return isinstance(inner, LayerWise)


def _variable(value: tf.Tensor, name: str) -> tf.Variable:
    """An untrained variable that all replicas set to the same value."""
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, trainable=False, aggregation=first, name=name)
