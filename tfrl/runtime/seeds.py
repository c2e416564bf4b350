"""Every generator of a run derives from (run seed, role, index, stream); nothing is seeded from the clock."""

from __future__ import annotations

import zlib

import numpy as np


def sequence(seed: int, role: str, index: int = 0, stream: str = "") -> np.random.SeedSequence:
    """Seed material that no other (role, index, stream) of the run shares."""
    return np.random.SeedSequence(
        [seed, zlib.crc32(role.encode()), index, zlib.crc32(stream.encode())]
    )


def generator(seed: int, role: str, index: int = 0, stream: str = "") -> np.random.Generator:
    """A NumPy generator; its state can be saved by `generator.bit_generator.state`."""
    return np.random.Generator(np.random.PCG64(sequence(seed, role, index, stream)))


def integer(seed: int, role: str, index: int = 0, stream: str = "") -> int:
    """A seed in [0, 2**31) for libraries that take one integer."""
    return int(sequence(seed, role, index, stream).generate_state(1)[0] & 0x7FFFFFFF)
