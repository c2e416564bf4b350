"""The Reverb server of a run, empty or restored from a checkpoint of its contents."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

import reverb
import tensorflow as tf
from reverb.cc.checkpointing import checkpoint_pb2
from reverb.platform.checkpointers_lib import DefaultCheckpointer

from tfrl.replay.tables import EXPERIENCE
from tfrl.runtime.storage.checkpoint_files import SCRATCH

TABLES = "tables.tfrecord"  # Reverb's file of tables
SHARDS = "shards.json"  # holds the number of shards of saved contents


class ReplayServer:
    """A Reverb server with a folder for its checkpoints.

    Args:
      tables: what it serves.
      restore: folder of a replay checkpoint to start from, or None for empty tables.
      sampled: items that updates have consumed of that checkpoint; None: as many as were fetched from it.
      scratch: folder to write checkpoints in before they are moved; best on the file system of the run.
      name: beginning of its folders there; leftovers of a server of this name are removed.
      port: to listen on; None: any that is free.
    """

    def __init__(
        self,
        tables: list[reverb.Table],
        restore: pathlib.Path | None = None,
        sampled: int | None = None,
        scratch: pathlib.Path | None = None,
        name: str = "0",
        port: int | None = None,
    ):
        prefix = f"{SCRATCH}{name}-"
        if scratch is not None:
            scratch.mkdir(parents=True, exist_ok=True)
            for left in scratch.glob(f"{prefix}*"):  # of a server that was killed
                shutil.rmtree(left, ignore_errors=True)
        self._folder = tempfile.mkdtemp(prefix=prefix, dir=scratch)
        fallback = None
        if restore is not None:
            fallback = os.path.join(self._folder, "restore")
            _with_limiters(restore, pathlib.Path(fallback), tables, sampled)
        saves = os.path.join(self._folder, "saves")
        checkpointer = DefaultCheckpointer(saves, fallback_checkpoint_path=fallback)
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


def save_shards(clients: Sequence[reverb.Client], folder: pathlib.Path) -> list[int]:
    """Saves the contents of several servers, each to a folder of its own; see `save_contents`.

    Returns those that do not answer, which are left out.
    """
    folder.mkdir()
    (folder / SHARDS).write_text(json.dumps({"count": len(clients)}))
    lost = []
    for slot, client in enumerate(clients):
        try:
            save_contents(client, shard_folder(folder, slot))
        except RuntimeError:  # what Reverb raises when a server is gone
            lost.append(slot)
    return lost


def saved_shards(contents: pathlib.Path) -> int:
    """The number of shards of saved contents."""
    told = contents / SHARDS
    return json.loads(told.read_text())["count"] if told.exists() else 1


def shard_folder(contents: pathlib.Path, slot: int) -> pathlib.Path:
    """The folder of a shard's contents, where there are several."""
    return contents / f"shard-{slot}"


def saved_shapes(contents: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the columns of the items that a server saved, {column: shape}; of the first shard of several."""
    first = next((p for p in sorted(contents.rglob(TABLES))), None)
    if first is None:
        return {}
    records = tf.data.TFRecordDataset(str(first), compression_type="ZLIB").as_numpy_iterator()
    tables = [checkpoint_pb2.PriorityTableCheckpoint.FromString(record) for record in records]
    fields = next(t for t in tables if t.table_name == EXPERIENCE).signature.dict_value.fields
    return {
        name: tuple(d.size for d in spec.tensor_spec_value.shape.dim)
        for name, spec in fields.items()
    }


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
        if file.name != TABLES:
            os.symlink(file.resolve(), target / file.name)
    with tf.io.TFRecordWriter(str(target / TABLES), "ZLIB") as writer:
        records = tf.data.TFRecordDataset(str(source / TABLES), compression_type="ZLIB")
        for record in records.as_numpy_iterator():
            table = checkpoint_pb2.PriorityTableCheckpoint.FromString(record)
            limiter, wanted = table.rate_limiter, limits[table.table_name]
            for name in ("samples_per_insert", "min_diff", "max_diff", "min_size_to_sample"):
                setattr(limiter, name, getattr(wanted, name))
            if sampled is not None:
                limiter.sample_count = sampled
            writer.write(table.SerializeToString())
