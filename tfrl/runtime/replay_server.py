"""The Reverb server of a run, empty or restored from a checkpoint of its contents."""

from __future__ import annotations

import pathlib
import shutil
import tempfile

import reverb
from reverb.platform.checkpointers_lib import DefaultCheckpointer


class ReplayServer:
    """A Reverb server with a folder for its checkpoints.

    Args:
      tables: what it serves.
      restore: folder of a replay checkpoint to start from, or None for empty tables.
      port: to listen on; None picks a free one.
    """

    def __init__(self, tables: list[reverb.Table], restore: pathlib.Path | None = None, port: int | None = None):
        self._folder = tempfile.mkdtemp(prefix="tfrl-replay-")
        fallback = str(restore) if restore is not None else None
        checkpointer = DefaultCheckpointer(self._folder, fallback_checkpoint_path=fallback)
        self._server = reverb.Server(tables, port=port, checkpointer=checkpointer)
        self.address = f"localhost:{self._server.port}"

    def stop(self) -> None:
        """Ends the server and removes its scratch folder; calls that wait on it fail."""
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def save_contents(client: reverb.Client, folder: pathlib.Path) -> None:
    """Writes everything the server of `client` holds to `folder`, which must not exist. Same machine only."""
    written = pathlib.Path(client.checkpoint())
    shutil.move(written, folder)
