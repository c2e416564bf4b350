"""What serves a kind of item: one line of a table, and writers that are what the actor's loop takes them for."""

import ast
import inspect
import pathlib
from unittest import mock

import gymnasium as gym
import numpy as np
import reverb
from absl.testing import absltest, parameterized

from tfrl.agent import Episodes, NStep, Unroll, Windows
from tfrl.replay import kinds
from tfrl.replay.local_queue import LocalQueue
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_chunks import ChunkWriter
from tfrl.replay.write_sequences import UnrollBuilder
from tfrl.replay.writer import Writer
from tfrl.runtime.acting import actor
from tfrl.runtime.roles import actor as role
from tfrl.testing import trajectories
from tfrl.types import EnvSpec, PolicyStep

SPEC = EnvSpec("e", gym.spaces.Box(-1, 1, (2,), np.float32), gym.spaces.Discrete(3))
STACKED = EnvSpec(
    "f", gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), gym.spaces.Discrete(3), frame_stack=3
)
NUM_ENVS = 2
EXAMPLE = PolicyStep(np.zeros(1, np.int32), (), {}), ()


def layout_of(spec, item):
    if isinstance(item, NStep):
        return TransitionLayout(spec, False)
    return kinds.sequence_layout(spec, item, EXAMPLE, NUM_ENVS)


class Every(Unroll):
    """A kind of item that the tree does not have."""


class WriterTest(parameterized.TestCase):
    def writer_of(self, spec, item):
        layout = layout_of(spec, item)
        server = reverb.Server(
            [reverb.Table.queue("experience", 100, signature=layout.signature())]
        )
        self.addCleanup(server.stop)
        client = reverb.Client(f"localhost:{server.port}")
        writer = kinds.make_writer([client], item, layout, NUM_ENVS)
        self.addCleanup(writer.close)
        return writer

    @parameterized.product(
        item=(NStep(2, 0.9), Unroll(4, 0.9), Windows(4, 0.9, 2), Episodes(4, 0.9, 1)),
        spec=(SPEC, STACKED),
    )
    def test_every_writer_is_one_and_has_nothing_more(self, item, spec):
        """What the protocol does not declare would be used by somebody who knows which writer it is."""
        writer = self.writer_of(spec, item)
        self.assertIsInstance(writer, Writer)
        self.assertEqual(type(writer).__bases__, (Writer,))
        declared = {name for name in dir(Writer) if not name.startswith("_")}
        more = {name for name in dir(writer) if not name.startswith("_")} - declared
        self.assertContainsSubset(more, {"write"})  # of transitions, for tests without a policy
        for name in declared:
            if inspect.isfunction(declaration := getattr(Writer, name)):
                mine = inspect.signature(getattr(type(writer), name))
                self.assertEqual(mine, inspect.signature(declaration), name)
        self.assertEqual(writer.vector_steps_to_item, 4 if isinstance(item, Unroll) else None)

    def test_chunks_too(self):
        writer = ChunkWriter(lambda chunk: None, NStep(1, 0.9), TransitionLayout(SPEC, False), 2)
        self.assertIsInstance(writer, Writer)
        self.assertIsNone(writer.vector_steps_to_item)

    def test_the_actors_use_exactly_what_is_declared(self):
        used = set()
        for module in (actor, role):
            for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("writer"):
                    used.add(node.attr)
        self.assertEqual(used, {name for name in dir(Writer) if not name.startswith("_")})

    def test_a_new_kind_of_sequence_is_one_line(self):
        line = kinds.SequenceKind(lambda item, num_envs: num_envs, lambda *of: [UnrollBuilder(*of)])
        with mock.patch.dict(kinds.SEQUENCES, {Every: line}):
            item, queue = Every(5, 0.9), LocalQueue()
            layout = layout_of(SPEC, item)
            writer = kinds.sequence_writer(queue, item, layout, NUM_ENVS)
            for acted in trajectories.random_script(SPEC, NUM_ENVS, 10, 0, same_step=False).acted:
                writer.record(acted.obs, (), PolicyStep(acted.action, (), {}), acted.step)
        self.assertEqual(writer.items_written, 2)
        self.assertIsNone(writer.vector_steps_to_item)
        batch = layout.decode(queue.take(2).columns)
        self.assertEqual(batch.reward.shape, (5, 2 * NUM_ENVS))


if __name__ == "__main__":
    absltest.main()
