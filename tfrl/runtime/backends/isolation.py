"""A network of a run's own processes: a Linux network namespace whose only interface is its loopback.

Reverb listens on all interfaces of a machine, has no option for another address, and has no password. Inside
the namespace that is harmless: no packet enters or leaves it. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection

from tfrl.errors import SettingError
from tfrl.runtime.backends.process import Process

# From linux/sched.h, linux/if.h, linux/sockios.h and linux/prctl.h.
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
IFF_UP, SIOCSIFFLAGS = 0x1, 0x8914
PR_SET_DUMPABLE = 4
TIMEOUT_S = 60.0


def network_line(isolated: bool, way: str) -> str:
    """The start-up line about access to the replay server.

    Args:
      way: what prevents access by others.
    """
    if isolated:
        return "network: isolated; only the processes of this run can reach the replay server"
    return (
        "network: the replay server listens on all interfaces without a password, so anyone who can connect to this "
        f"machine can read and replace experience and weights; {way}"
    )


class Isolation:
    """The namespaces, kept by descriptors that processes of the run inherit and `enter`.

    As root it is a network namespace alone. Other users get one that belongs to a user namespace of theirs, in which
    they are who they are.

    Attributes:
      descriptors: of the namespaces, in the order in which they are entered.

    Raises:
      SettingError: this platform does not allow it.
    """

    def __init__(self) -> None:
        self.descriptors: tuple[int, ...] = ()
        if not sys.platform.startswith("linux"):
            raise SettingError(
                f"isolate: expected Linux, whose namespaces it needs, not {sys.platform}"
            )
        maker = Process(f"{__name__}:make", (), {})
        try:
            answer = maker.pipe.recv() if maker.pipe.poll(TIMEOUT_S) else "no answer"
            if isinstance(answer, str):
                raise SettingError(
                    f"isolate: this machine lets this user have no network namespace ({answer}); expected Linux with "
                    "user namespaces (a container may forbid them); without isolate, docs/reliability.md says who can "
                    "connect"
                )
            self.descriptors = tuple(reduction.recv_handle(maker.pipe) for _ in range(answer))
        except EOFError:
            raise SettingError("isolate: the process that makes the namespaces ended") from None
        finally:
            maker.kill()
            maker.join(5)
            maker.pipe.close()

    def close(self) -> None:
        """Gives the namespaces back; they end with the last process in them."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def make(connection: Connection) -> None:
    """In a process of its own: makes the namespaces and sends their number and descriptors, or what forbids it."""
    try:
        names = _unshare()
        _raise_loopback()
        descriptors = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in names]
    except OSError as error:
        connection.send(error.strerror or str(error))
        return
    connection.send(len(descriptors))
    for descriptor in descriptors:
        reduction.send_handle(connection, descriptor, os.getppid())


def enter(descriptors: Sequence[int]) -> None:
    """Moves this process, which must have one thread, into namespaces; raises OSError where it cannot."""
    for descriptor in descriptors:
        _checked("setns", descriptor, 0)
        os.close(descriptor)
    if descriptors:
        # The kernel takes the new powers for a reason to hide what is in /proc of this process.
        _checked("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


def _unshare() -> tuple[str, ...]:
    """Leaves for new namespaces; their names under /proc/self/ns."""
    user, group = os.geteuid(), os.getegid()
    try:
        _checked("unshare", CLONE_NEWNET)
        return ("net",)
    except PermissionError:
        _checked("unshare", CLONE_NEWUSER | CLONE_NEWNET)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return ("user", "net")


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def _checked(name: str, *args: int) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*args) < 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, f"{name}: {os.strerror(number)}")
