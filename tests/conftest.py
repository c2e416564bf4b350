"""Set-up of the test process: quiet libraries, no GPU, two logical CPU devices for replicas."""

import os
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
os.environ.setdefault("GLOG_minloglevel", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

# A shell's background job ignores SIGINT, and nohup SIGHUP; tests of signals, and their child processes, must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config):
    """Keras draws its seeds with a float limit."""
    config.addinivalue_line(
        "filterwarnings", "ignore:non-integer arguments to randrange:DeprecationWarning"
    )


def pytest_collection_modifyitems(items):
    """`tf.test.TestCase` has a method `test_session`, which is no test."""
    items[:] = [item for item in items if item.name != "test_session"]


def pytest_collection_finish(session):
    """TensorFlow must be told before its first op, so no test module may run one when imported.

    Where no test imported TensorFlow, nothing is paid.
    """
    del session
    if "tensorflow" in sys.modules:
        from tfrl.testing import replicas

        replicas.configure()
