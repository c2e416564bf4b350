"""Parts of tfrl for Keras models of any kind, without reinforcement learning: LAMB, LARS, dynamic sparse training.

from tfrl.keras import LAMB, SparseTraining

model.compile(LAMB(2e-3), "mse")
model.fit(x, y, callbacks=[SparseTraining(density=0.3)])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from tfrl.agent import Network
from tfrl.errors import SettingError
from tfrl.optim.lamb import LAMB, LARS
from tfrl.switches import sparse

__all__ = ["LAMB", "LARS", "SparseTraining"]


@contextlib.contextmanager
def _own_names() -> Iterator[None]:
    """Puts the names of the arguments here into messages about the settings of the switch."""
    try:
        yield
    except SettingError as error:
        text = str(error).removeprefix("with=sparse: ")
        for theirs, mine in (
            ("sparse_stop_env_steps", "stop_updates"),
            ("env steps", "batches"),
            ("sparse_", ""),
        ):
            text = text.replace(theirs, mine)
        raise SettingError(f"SparseTraining: {text}") from None


class SparseTraining(tf.keras.callbacks.Callback):
    """Dynamic sparse training of a Keras model in `model.fit` (Sokar et al. 2022; docs/sparse.md has the rules).

    At the start of the first `fit` the hidden kernels get Erdos-Renyi masks, and inactive weights become 0. After each
    batch they are set to 0 again; every `rewire_updates` batches the weights of each sign nearest to 0 are dropped and
    as many grow at random places. The kernel of the last layer, embeddings, biases and normalisation stay dense. A
    further `fit` of the model with the same callback goes on with the same masks, one without it is dense. (After a
    `fit` that was interrupted, LAMB and LARS keep the masks until another one with the callback has ended.)

    Args:
      density: fraction of the weights of the sparse layers that are active.
      lambdas: Erdos-Renyi lambda of each sparse layer, in their order, in place of `density`.
      convolutions: kernels of three or more axes are sparse too.
      rewire_updates: batches between rewirings; 0: the masks are static.
      drop: fraction of the active weights of each sign that a rewiring drops.
      stop_updates: batches after which the next rewiring only drops, and is the last one; None: no end.
      seed: of masks and growth, not negative; None: TensorFlow's global seed decides.

    Attributes:
      topology: masks and counters, a `tf.Module` that a `tf.train.Checkpoint` can hold; None before the first `fit`.

    Raises:
      SettingError: a number out of its range; in `fit`: no layer can be sparse, or not as many lambdas as layers that
        can; a model without weights before its first batch, or another one than in the first `fit`; or one compiled
        with `steps_per_execution` above 1, which calls back after several batches only.
    """

    def __init__(
        self,
        density: float = 0.5,
        lambdas: Sequence[float] = (),
        convolutions: bool = False,
        rewire_updates: int = 1_000,
        drop: float = 0.05,
        stop_updates: int | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        with _own_names():
            self._config = sparse.Config(
                sparse_density=density,
                sparse_lambdas=tuple(lambdas),
                sparse_convolutions=convolutions,
                sparse_rewire_updates=rewire_updates,
                sparse_drop=drop,
                sparse_stop_env_steps=stop_updates,
            )
        if seed is not None and not 0 <= seed < 2**31:
            raise SettingError(f"SparseTraining: seed={seed!r}; expected 0 to {2**31 - 1}, or None")
        self._seed = seed
        self.topology: sparse.Topology | None = None
        self._updates = tf.Variable(0, dtype=tf.int64, trainable=False, name="updates")

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Draws the masks, in the first `fit` of this callback."""
        del logs
        model = self.model
        steps = model._steps_per_execution
        steps = 1 if steps is None else int(tf.keras.backend.get_value(steps))
        if steps > 1:
            raise SettingError(
                f"SparseTraining: the model has steps_per_execution={steps}; expected 1, since inactive weights are "
                "set to 0 after each batch"
            )
        self._draws = self.topology is None
        if self._draws:
            self._start(model)
        elif model is not self._trained:
            raise SettingError(
                f"SparseTraining: fit of model {model.name!r} with the masks of another one, "
                f"{self._trained.name!r}; expected a callback of its own for each model"
            )
        self._num_variables = len(model.trainable_variables)
        # The model may have been compiled anew, or trained without this callback, since the last fit.
        with model.distribute_strategy.scope():
            self.topology.start()
        if self.topology.bind(model.optimizer):
            model.make_train_function(force=True)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """From now on all weights count for LAMB and LARS: a `fit` without this callback is dense."""
        del logs
        if self.topology.unbind(self.model.optimizer):
            self.model.train_function = None  # the next fit traces it

    def _start(self, model: tf.keras.Model) -> None:
        """Draws the masks of a model, which is the one that this callback serves."""
        if not _variables(model):
            self._refuse_late()
        network = Network(model.name, model.trainable_variables, model.optimizer)
        strategy = model.distribute_strategy
        with _own_names(), strategy.scope():
            self.topology = sparse.Topology(self._config, [network], model.name, self._seed)
        self._trained = model
        self._project = tf.function(lambda: strategy.run(self.topology.project))
        self._rewire = tf.function(lambda: self.topology.rewire(self._updates))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Sets the inactive weights to 0, and rewires when it is due."""
        del batch, logs
        if len(self.model.trainable_variables) != self._num_variables:
            if self._draws:
                self.topology = None  # the next fit draws masks of all layers
            self._refuse_late()
        self._project()
        self._updates.assign_add(1)
        every = self._config.sparse_rewire_updates
        if every and int(self._updates) % every == 0:
            self._rewire()

    def _refuse_late(self) -> NoReturn:
        raise SettingError(
            f"SparseTraining: model {self.model.name!r} has no weights, or not all, before its first batch; expected "
            "one with an input shape (tf.keras.Input), or a call of model.build(input_shape) before fit"
        )

    def summary(self) -> dict[str, Any]:
        """Parameters and operations, sparse, dense and their ratio: {'parameters', 'parameters_dense', ...}.

        Raises:
          SettingError: before the first `fit`.
        """
        if self.topology is None:
            raise SettingError("SparseTraining: no summary before the first fit")
        return self.topology.summary()


def _variables(model: tf.keras.Model) -> list[tf.Variable]:
    """The trainable variables that there are."""
    try:
        return model.trainable_variables
    except ValueError:  # of Keras, for a model that has not been built
        return []
