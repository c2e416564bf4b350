"""Signals: none is handled in a thread of TensorFlow, where it would write over the heap."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import pathlib, signal, sys, threading, time
import tensorflow as tf
from tfrl.runtime.interrupt import start_tensorflow, take_no_signals

def blocked():
    masks = {}
    for task in pathlib.Path("/proc/self/task").iterdir():
        try:
            status = (task / "status").read_text()
        except OSError:  # it has ended
            continue
        lines = dict(line.split(":", 1) for line in status.splitlines())
        mask = int(lines["SigBlk"], 16)
        masks[task.name] = {s for s in signal.valid_signals() if mask >> (s - 1) & 1}
    return masks

before = blocked()
start_tensorflow()
# A new thread blocks every signal until it runs for the first time, which takes a while on a busy
# machine; a thread or two for something else than computing block even faults for good.
for _ in range(6000):
    started = [signals for task, signals in blocked().items() if task not in before]
    if any(signal.SIGSEGV not in s for s in started):
        break
    time.sleep(0.01)
assert len(started) > 1 and all(s >= {signal.SIGINT, signal.SIGTERM} for s in started), started
assert any(signal.SIGSEGV not in s for s in started), started
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()

handled = []
signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
w, x = tf.Variable(tf.random.normal([512, 512])), tf.random.normal([256, 512])

@tf.function
def update():
    with tf.GradientTape() as tape:
        y = x
        for _ in range(4):
            y = tf.tanh(y @ w)
        loss = tf.reduce_sum(y)
    w.assign_sub(1e-6 * tape.gradient(loss, w))

def updates():
    take_no_signals()
    while not done:
        update()

done = []
thread = threading.Thread(target=updates)
thread.start()
print("ready", flush=True)
sys.stdin.readline()
done.append(1)
thread.join()
print(len(handled))
"""


class SignalsTest(tf.test.TestCase):
    def test_a_process_that_is_stopped_and_signalled_again_and_again_goes_on(self):
        # Without `start_tensorflow` this ends within a second, at "corrupted size vs. prev_size".
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.kill)
        if (first := process.stdout.readline()) != "ready\n":
            self.fail(f"{first!r} instead of 'ready': {process.communicate()[1]}")
        for _ in range(150):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.01)
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.02)
        out, errors = process.communicate("\n", timeout=60)
        self.assertEqual(process.returncode, 0, errors)
        self.assertGreater(int(out), 75)  # the main thread has taken them
