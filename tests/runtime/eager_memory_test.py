"""Eager tensors leave nothing behind."""

import os
import pathlib
import subprocess
import sys

from absl.testing import absltest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import gc, sys
import tensorflow as tf
from tfrl.runtime.interrupt import start_tensorflow

start_tensorflow()
x, variable = tf.constant([1.0, 2.0]), tf.Variable([1.0, 2.0])
double = tf.function(lambda x: (x + x, x * 2.0))

def work():
    for _ in range(2000):
        tf.identity(x)
        variable.numpy()
        double(x)

def blocks():
    gc.collect()
    return sys.getallocatedblocks()

work()  # what is made once
before = blocks()
work()
print(blocks() - before)
tensor = tf.identity(x)
tensor.note = "kept"
print(tensor.note, tensor.__dict__, (tensor + tensor).numpy().tolist())
"""


class EagerMemoryTest(absltest.TestCase):
    def test_ten_thousand_tensors_leave_nothing_behind(self):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            check=True,
        )
        blocks, attributes = done.stdout.splitlines()
        self.assertLess(int(blocks), 200)  # one for each tensor without the mend
        self.assertEqual(attributes, "kept {'note': 'kept'} [2.0, 4.0]")


if __name__ == "__main__":
    absltest.main()
