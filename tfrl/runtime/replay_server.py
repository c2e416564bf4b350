"""The Reverb server of a run, empty or restored from a checkpoint of its contents."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

import reverb
import tensorflow as tf
from reverb.cc.checkpointing import checkpoint_pb2
from reverb.platform.checkpointers_lib import DefaultCheckpointer


class ReplayServer:
    """A Reverb server with a folder for its checkpoints.

    Args:
      tables: what it serves.
      restore: folder of a replay checkpoint to start from, or None for empty tables.
      sampled: items that updates have consumed of that checkpoint; None: as many as were fetched from it.
      scratch: folder to write checkpoints in before they are moved; best on the file system of the run.
    """

    def __init__(
        self,
        tables: list[reverb.Table],
        restore: pathlib.Path | None = None,
        sampled: int | None = None,
        scratch: pathlib.Path | None = None,
    ):
        self._folder = tempfile.mkdtemp(prefix="tfrl-replay-", dir=scratch)
        fallback = None
        if restore is not None:
            fallback = os.path.join(self._folder, "restore")
            _with_limiters(restore, pathlib.Path(fallback), tables, sampled)
        saves = os.path.join(self._folder, "saves")
        checkpointer = DefaultCheckpointer(saves, fallback_checkpoint_path=fallback)
        self._server = reverb.Server(tables, checkpointer=checkpointer)
        self.address = f"localhost:{self._server.port}"

    def stop(self) -> None:
        """Ends the server and removes its scratch folder; calls that wait on it fail."""
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def save_contents(client: reverb.Client, folder: pathlib.Path) -> None:
    """Writes everything the server of `client` holds to `folder`, which must not exist. Same machine only."""
    written = pathlib.Path(client.checkpoint())
    shutil.move(written, folder)


def _with_limiters(
    source: pathlib.Path, target: pathlib.Path, tables: list[reverb.Table], sampled: int | None
) -> None:
    """Links a checkpoint to `target`, but with the rate limiters of `tables`.

    Reverb restores the limiter that was saved, which is another one when a run is resumed with
    another backend: it would hold no ratio there, or block the only thread here.
    """
    limits = {table.name: table.info.rate_limiter_info for table in tables}
    target.mkdir()
    for file in source.iterdir():
        if file.name != "tables.tfrecord":
            os.symlink(file.resolve(), target / file.name)
    with tf.io.TFRecordWriter(str(target / "tables.tfrecord"), "ZLIB") as writer:
        records = tf.data.TFRecordDataset(str(source / "tables.tfrecord"), compression_type="ZLIB")
        for record in records.as_numpy_iterator():
            table = checkpoint_pb2.PriorityTableCheckpoint.FromString(record)
            limiter, wanted = table.rate_limiter, limits[table.table_name]
            for name in ("samples_per_insert", "min_diff", "max_diff", "min_size_to_sample"):
                setattr(limiter, name, getattr(wanted, name))
            if sampled is not None:
                limiter.sample_count = sampled
            writer.write(table.SerializeToString())
