"""A leak of TensorFlow 2.15 under Python 3.11, mended: every eager tensor left a small object behind.

Python 3.11 gives a new instance of a class without `__slots__` room for its attributes. TensorFlow frees its eager
tensors by a function of its own, which does not know of that room (github.com/tensorflow/tensorflow/issues/62551).
A learner makes some twenty eager tensors for each call, which came to 4 MB per million env steps of IMPALA.
"""

from __future__ import annotations

import ctypes
import sys

from tensorflow.python.framework.ops import EagerTensor

# Bits of `type.__flags__`: Python keeps the attributes of an instance, and gives the room for them.
MANAGED_DICT = 1 << 4
DICT_OFFSET = 288  # where a type of CPython 3.11 on 64 bits keeps its `__dictoffset__`


def mend_eager_tensors() -> bool:
    """Lets new eager tensors come without room for attributes; one that is given an attribute gets a dict as before.

    A type whose `__dictoffset__` is 0 gets none. Attributes are found by `MANAGED_DICT` in either case.

    Returns:
      Whether eager tensors needed it; False the second time, and on a Python that gives no such room.
    """
    offset = EagerTensor.__dictoffset__
    if sys.version_info[:2] != (3, 11) or offset <= 0 or not EagerTensor.__flags__ & MANAGED_DICT:
        return False
    place = ctypes.c_ssize_t.from_address(id(EagerTensor) + DICT_OFFSET)
    if place.value != offset:
        raise RuntimeError(f"a type of this Python has no __dictoffset__ at byte {DICT_OFFSET}")
    place.value = 0
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(EagerTensor))
    return True
