"""Two replicas on one CPU, for tests that compare several learner devices with one."""

from __future__ import annotations

import tensorflow as tf

from tfrl.runtime.learning.learner import make_strategy


def configure(num_devices: int = 2) -> None:
    """Splits the CPU into logical devices; call it before TensorFlow runs its first op."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
    )


def two_cpus() -> tf.distribute.Strategy:
    """A mirrored strategy over two logical CPU devices.

    Raises:
      RuntimeError: `configure` has not been called.
    """
    if len(tf.config.list_logical_devices("CPU")) < 2:
        raise RuntimeError(
            "one logical CPU device only: call tfrl.testing.replicas.configure first"
        )
    return make_strategy(2)
