"""Namespaces of a run's own: what is inside can talk, and nobody outside can reach it."""

import contextlib
import os
import pathlib
import re
import socket
import tempfile
from multiprocessing.connection import Connection
from unittest import mock

from absl.testing import absltest, parameterized

from tfrl.errors import SettingError
from tfrl.job import Topology
from tfrl.runtime.backends import isolation
from tfrl.runtime.backends.process import Process
from tfrl.testing.processes import Run

NOBODY = 65534
LISTENS = "0A"  # the state in /proc/net/tcp


def listen(connection: Connection, namespaces: tuple[int, ...]) -> None:
    """Enters the namespaces, listens on all interfaces, and sends where, who it is and which interfaces there are."""
    isolation.enter(namespaces)
    server = socket.create_server(("", 0))
    connection.send(
        (server.getsockname()[1], os.geteuid(), [name for _, name in socket.if_nameindex()])
    )
    connection.recv()


def connect(connection: Connection, namespaces: tuple[int, ...], port: int) -> None:
    """Enters the namespaces and sends whether somebody listens there."""
    isolation.enter(namespaces)
    connection.send(reachable(port))


def make_as_nobody(connection: Connection) -> None:
    """As `isolation.make` for a user without powers."""
    become_nobody()
    isolation.make(connection)


def listen_as_nobody(connection: Connection, namespaces: tuple[int, ...]) -> None:
    """As `listen` for a user without powers."""
    become_nobody()
    listen(connection, namespaces)


def become_nobody() -> None:
    """For good. The kernel hides a process that changes its user from itself, which other users do not meet."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    isolation._checked("prctl", isolation.PR_SET_DUMPABLE, 1, 0, 0, 0)


def reachable(port: int) -> bool:
    with contextlib.closing(socket.socket()) as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def ports(table: str) -> set[int]:
    """The ports with a listener, of a table as in /proc/net/tcp."""
    lines = [line.split() for line in table.splitlines()[1:]]
    return {int(line[1].rsplit(":", 1)[1], 16) for line in lines if line[3] == LISTENS}


class IsolationTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        try:
            self.made = isolation.Isolation()
        except SettingError as error:
            self.skipTest(str(error))
        self.addCleanup(self.made.close)

    def start(self, function, *args, descriptors=()):
        process = Process(f"{__name__}:{function}", args, {}, descriptors)
        self.addCleanup(process.join, 5)
        self.addCleanup(process.kill)
        return process

    def test_only_processes_inside_reach_a_port(self):
        inside = self.made.descriptors
        server = self.start("listen", inside, descriptors=inside)
        port, user, interfaces = server.pipe.recv()
        self.assertEqual((user, interfaces), (os.geteuid(), ["lo"]))
        self.assertFalse(reachable(port))
        self.assertTrue(self.start("connect", inside, port, descriptors=inside).pipe.recv())
        another = isolation.Isolation()
        self.addCleanup(another.close)
        client = self.start("connect", another.descriptors, port, descriptors=another.descriptors)
        self.assertFalse(client.pipe.recv())
        # The same port without namespaces, so that the answers above are not those of a broken test.
        port = self.start("listen", ()).pipe.recv()[0]
        self.assertTrue(reachable(port))

    def test_users_without_powers_have_it_too(self):
        if os.geteuid() != 0:
            self.skipTest("the other tests are those of a user without powers")
        maker = self.start("make_as_nobody")
        with mock.patch.object(isolation, "Process", return_value=maker):
            made = isolation.Isolation()
        self.addCleanup(made.close)
        self.assertLen(made.descriptors, 2)  # a user namespace, too
        server = self.start("listen_as_nobody", made.descriptors, descriptors=made.descriptors)
        port, user, interfaces = server.pipe.recv()
        self.assertEqual((user, interfaces), (NOBODY, ["lo"]))
        self.assertFalse(reachable(port))

    def test_a_run_whose_ports_nobody_else_sees(self):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        before = ports(pathlib.Path("/proc/net/tcp6").read_text())
        run = Run(
            folder, "dqn", env="CartPole-v1", num_envs=2, total_env_steps=400, min_replay=100,
            hidden_sizes="8", compile="graph", inference="lite", eval_every_env_steps=0,
            eval_episodes=1, final_eval_episodes=1, console="plain", tensorboard=False,
            replay_residency="server", isolate=True,
        )  # fmt: skip
        self.addCleanup(run.close)
        inside = set()

        def listens():
            for name, child in run.children().items():
                if name == "replay-0":
                    with contextlib.suppress(OSError):  # it has ended
                        inside.update(
                            ports(pathlib.Path(f"/proc/{child.pid}/net/tcp6").read_text())
                        )
            return len(inside) >= 2  # experience and weights

        run.wait_for("ports", listens)
        for port in inside - before:
            self.assertFalse(reachable(port))
        self.assertEqual(run.wait(), 0, run.text())
        self.assertIn(
            "network: isolated; only the processes of this run can reach the replay server",
            run.text(),
        )
        self.assertEqual(run.result()["episodes"], 1)

    def test_a_run_without_says_who_can_connect(self):
        line = isolation.network_line(False, "--isolate closes it")
        self.assertRegex(
            line,
            "^network: .* all interfaces without a password, so anyone who can connect .* weights; --isolate",
        )


class RefusedTest(parameterized.TestCase):
    @parameterized.parameters("unshare: Operation not permitted", "unshare: Invalid argument")
    def test_a_machine_that_forbids_it_is_named(self, answer):
        maker = mock.Mock()
        maker.pipe.recv.return_value = answer
        with (
            mock.patch.object(isolation, "Process", return_value=maker),
            self.assertRaisesRegex(
                SettingError, f"^isolate: .*{re.escape(answer)}.*expected Linux"
            ),
        ):
            isolation.Isolation()
        maker.kill.assert_called_once()

    def test_another_system_is_named(self):
        with (
            mock.patch.object(isolation.sys, "platform", "darwin"),
            self.assertRaisesRegex(SettingError, "^isolate: expected Linux.* not darwin"),
        ):
            isolation.Isolation()

    def test_one_process_needs_none(self):
        with self.assertRaisesRegex(
            SettingError, "^isolate with backend=inprocess: expected backend=processes"
        ):
            Topology(isolate=True)


if __name__ == "__main__":
    absltest.main()
