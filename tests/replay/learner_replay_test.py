"""The replay beside the learner against slow twins: contents, frames, draws, priorities, saved contents."""

import pathlib
import tempfile
import threading
import time
from unittest import mock

import gymnasium as gym
import numpy as np
import reverb
import tensorflow as tf
import tree
from absl.testing import absltest, parameterized

from tfrl.agent import NStep, Replay
from tfrl.errors import SettingError
from tfrl.replay import learner_replay
from tfrl.replay.learner_replay import LearnerReplay
from tfrl.replay.transitions import TransitionLayout
from tfrl.replay.write_chunks import Chunk, Chunks, ChunkSender, ChunkWriter, chunks_table
from tfrl.testing import reference, trajectories
from tfrl.types import EnvSpec

spaces = gym.spaces
SPEC = EnvSpec("one", spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3))


def plan(kind="uniform", n=1, priority_exponent=0.0, **changes):
    values = dict(
        item=NStep(n, 0.9), capacity_items=1_000, min_items=0, samples_per_insert=8.0, batch_size=4,
        priority_exponent=priority_exponent if kind == "prioritized" else None,
    )  # fmt: skip
    return Replay(**{**values, **changes})


def make(spec=SPEC, seed=3, **changes):
    replay_plan = plan(**changes)
    layout = TransitionLayout(spec, replay_plan.prioritized)
    return LearnerReplay(replay_plan, layout, seed), layout, replay_plan


def rows_of(layout, rewards):
    records = np.zeros(len(rewards), layout.packing.dtype)
    records["reward"] = rewards
    return layout.packing.rows(records)


def chunk_of(layout, rewards):
    rows = rows_of(layout, rewards)
    refs = np.zeros((len(rows), 0), np.int64)
    return Chunk(rows, np.zeros((0, 0, 0), np.uint8), refs, np.int64(0), np.int64(0))


def items_in(replay, layout):
    """Items of a replay, oldest first."""
    live = replay.live()
    batch = layout.decode(replay.read(live), tf.ones([len(live)]))
    return trajectories.items_of(batch)


def rewards_in(replay, layout):
    return [float(i.reward) for i in items_in(replay, layout)]


class ContentsTest(tf.test.TestCase, parameterized.TestCase):
    def assertSameItems(self, found, expected):
        self.assertEqual(len(found), len(expected))
        for mine, theirs in zip(found, expected, strict=True):
            for name in ("obs_tm1", "action", "obs_t"):
                tree.map_structure(self.assertAllEqual, getattr(mine, name), getattr(theirs, name))
            self.assertAllClose(mine.reward, theirs.reward, 1e-6, 1e-6)
            self.assertAllClose(mine.discount, theirs.discount, 1e-6, 1e-6)

    def write(self, replay, layout, item, script, num_envs, max_rows=16, writer=0):
        sink = ChunkWriter(replay.insert, item, layout, num_envs, max_rows, writer)
        for acted in script.acted:
            sink.write(*acted)
        sink.flush()
        return sink

    @parameterized.product(
        n=(1, 3), same_step=(True, False), max_rows=(1, 7, 1_000), own=(False, True)
    )
    def test_items_equal_the_twin(self, n, same_step, max_rows, own):
        spec = EnvSpec(
            "rows",
            spaces.Dict(
                row=spaces.Discrete(4, dtype=np.int32), flags=spaces.Box(0, 255, (3,), np.uint8)
            ),
            spaces.Discrete(7),
            reward_parts=("a", "b", "c") if own else (),
            step_discount=own,
        )
        script = trajectories.random_script(spec, 4, 40, seed=n, same_step=same_step)
        replay, layout, replay_plan = make(spec, n=n)
        sink = self.write(replay, layout, replay_plan.item, script, 4, max_rows)
        found = items_in(replay, layout)
        self.assertEqual(sink.items_written, len(found))
        self.assertEqual((replay.written, replay.size), (len(found), len(found)))
        for row, steps in enumerate(script.rows):
            mine = [i for i in found if i.obs_tm1["row"] == row]
            self.assertSameItems(mine, reference.n_step_items(steps, n, 0.9))

    @parameterized.product(n=(1, 3), stack=(3, 4), repeat_first=(True, False))
    def test_frames_equal_those_acted_on(self, n, stack, repeat_first):
        spec, script = trajectories.stacked_script(3, 50, stack, 6, n, True, repeat_first)
        replay, layout, replay_plan = make(spec, n=n)
        self.write(replay, layout, replay_plan.item, script, 3)
        expected = [i for steps in script.rows for i in reference.n_step_items(steps, n, 0.9)]
        key = lambda i: (np.asarray(i.obs_tm1).tobytes(), float(i.reward))
        found = sorted(items_in(replay, layout), key=key)
        self.assertSameItems(found, sorted(expected, key=key))

    @parameterized.parameters(1, 3)
    def test_a_replay_that_joins_late_leaves_out_rows_whose_frames_it_never_had(self, n):
        """As that of a learner that takes the place of a killed one, while the actors go on."""
        spec, script = trajectories.stacked_script(3, 60, 4, 6, n, True, False)
        (whole, layout, replay_plan), (late, _, _) = make(spec, n=n), make(spec, n=n)
        chunks = []
        sink = ChunkWriter(chunks.append, replay_plan.item, layout, 3, max_rows=8)
        for acted in script.acted:
            sink.write(*acted)
        sink.flush()
        for i, chunk in enumerate(chunks):
            whole.insert(chunk)
            if i >= 4:
                late.insert(chunk)
        theirs = {i.reward: i for i in items_in(whole, layout)}  # noise, no two alike
        found = items_in(late, layout)
        self.assertSameItems(found, [theirs[i.reward] for i in found])
        sent = sum(len(b.rows) for b in chunks[4:])
        self.assertBetween(len(found), sent - 3 * (4 + n), sent - 1)
        self.assertEqual(late.written, len(found))

    def test_every_frame_is_stored_once(self):
        spec, script = trajectories.stacked_script(2, 100, 4, 8, 3, True, True)
        chunks = []
        layout = TransitionLayout(spec, False)
        sink = ChunkWriter(chunks.append, NStep(1, 0.9), layout, 2)
        for acted in script.acted:
            sink.write(*acted)
        sink.flush()
        steps = sum(map(len, script.rows))
        ends = sum(s.terminated or s.truncated for row in script.rows for s in row)
        unfinished = sum(not (r[-1].terminated or r[-1].truncated) for r in script.rows)
        lives = sum(
            s.terminated and not np.array_equal(after.obs[..., 0], after.obs[..., 1])
            for row in script.rows
            for s, after in zip(row, row[1:])
        )
        sent = sum(len(b.frames) for b in chunks)
        # A game starts with one frame, repeated; a life with the four of the stack that goes on.
        self.assertBetween(
            sent, steps + ends + unfinished - 1, steps + ends + unfinished + 3 * lives
        )

    @parameterized.parameters(1, 5)
    def test_episodes_too_short_for_the_frames_kept(self, writers):
        """Items whose frames were overwritten leave; the others keep theirs."""
        spec, script = trajectories.stacked_script(1, 400, 4, 5, 8, True, False)
        with mock.patch.object(
            learner_replay, "sizes", lambda p, l: learner_replay.Sizes(60, 0, 0)
        ):
            replay, layout, replay_plan = make(spec, capacity_items=50)
        chunks = []
        sinks = [
            ChunkWriter(chunks.append, replay_plan.item, layout, 1, 1, w) for w in range(writers)
        ]
        expected = reference.n_step_items(script.rows[0], 1, 0.9)
        for acted in script.acted:
            for sink in sinks:
                sink.write(*acted)
        for chunk in chunks:
            replay.insert(chunk)
        self.assertBetween(replay.size, 25, 49)
        found = items_in(replay, layout)
        for back, item in enumerate(reversed(found)):
            self.assertSameItems([item], [expected[-1 - back // writers]])

    @parameterized.parameters("uniform", "prioritized")
    def test_the_oldest_leave_first(self, kind):
        replay, layout, _ = make(kind=kind, capacity_items=10)
        for start in range(0, 40, 4):
            replay.insert(chunk_of(layout, np.arange(start, start + 4)))
            now = start + 4
            self.assertEqual(rewards_in(replay, layout), list(range(max(0, now - 10), now)))
        replay.insert(chunk_of(layout, np.arange(100, 125)))  # more than there is room for
        self.assertEqual(rewards_in(replay, layout), list(range(115, 125)))
        draws = self.draw(replay, layout, 2_000)
        self.assertEqual(sorted(set(draws)), list(range(115, 125)))

    def draw(self, replay, layout, count):
        drawn = replay.sample(count, tf.constant(0, tf.int64))
        return layout.decode(drawn.columns, drawn.probability).reward_t.numpy().tolist()


class DrawsTest(tf.test.TestCase, parameterized.TestCase):
    DRAWS, BATCH = 200_000, 50

    def draw(self, replay, xla):
        """slots and probabilities of `DRAWS` draws, in a compiled loop of updates."""

        @tf.function(jit_compile=xla, autograph=False)
        def run(first):
            def one(i):
                drawn = replay.sample(self.BATCH, first + tf.cast(i, tf.int64))
                return drawn.slots, drawn.probability

            return tf.map_fn(
                one,
                tf.range(1_000),
                fn_output_signature=(
                    tf.TensorSpec([self.BATCH], tf.int32),
                    tf.TensorSpec([self.BATCH], tf.float32),
                ),
                parallel_iterations=1,
            )

        calls = self.DRAWS // (1_000 * self.BATCH)
        outs = [run(tf.constant(i * 1_000, tf.int64)) for i in range(calls)]
        return [np.concatenate([np.ravel(o[part]) for o in outs]) for part in (0, 1)]

    def assertFollows(self, counts, probabilities):
        expected = self.DRAWS * probabilities
        self.assertAllEqual(counts[expected == 0], np.zeros(np.sum(expected == 0)))
        counts, expected = counts[expected > 0], expected[expected > 0]
        chi_squared = float(np.sum((counts - expected) ** 2 / expected))
        freedom = len(counts) - 1
        # Five standard deviations: by chance in one of a million.
        self.assertLess(abs(chi_squared - freedom), 5 * np.sqrt(2 * freedom))

    @parameterized.product(xla=(False, True), filled=(30, 95))
    def test_uniform(self, xla, filled):
        replay, layout, _ = make(capacity_items=61)
        replay.insert(chunk_of(layout, np.arange(filled)))
        slots, probability = self.draw(replay, xla)
        counts = np.bincount(slots, minlength=61)
        here = min(filled, 61)
        self.assertFollows(counts, np.where(np.arange(61) < here, 1 / here, 0.0))
        self.assertAllEqual(probability, np.ones(self.DRAWS))

    @parameterized.product(xla=(False, True), filled=(30, 95))
    def test_prioritized(self, xla, filled):
        replay, layout, _ = make(kind="prioritized", capacity_items=61, priority_exponent=0.6)
        replay.insert(chunk_of(layout, np.arange(filled)))
        live = replay.live()
        priorities = np.linspace(0.01, 4.0, len(live)) ** 2
        tf.function(replay.update_priorities, jit_compile=xla)(
            tf.constant(live), tf.constant(priorities, tf.float32)
        )
        expected = np.zeros(61)
        expected[live] = reference.prioritized_probabilities(priorities, 0.6)
        slots, probability = self.draw(replay, xla)
        self.assertFollows(np.bincount(slots, minlength=61), expected)
        self.assertAllClose(probability, expected[slots], rtol=2e-6)
        # Importance weights, as `losses.value.importance_weights` makes them of a batch.
        batch = probability[: self.BATCH] / probability[: self.BATCH].min()
        theirs = expected[slots[: self.BATCH]]
        self.assertAllClose(batch**-0.4, (theirs / theirs.min()) ** -0.4, rtol=1e-5)

    def test_prefix_search_of_the_page(self):
        """Priorities 1, 2, 4, 8 with alpha 0.5; the eight masses of value_based.md (V6)."""
        weights = np.sqrt(np.float32([1, 2, 4, 8]))
        total = weights.sum()
        self.assertAllClose(total, 7.24264069)
        mass = np.float32([0, 0.999, 1.0, 2.4, 2.5, 4.4, 4.5, 7.2])[:, None]
        found = learner_replay._pick(tf.constant(weights[None]), tf.constant(mass / total))
        self.assertAllEqual(found, [0, 0, 1, 1, 2, 2, 3, 3])

    def test_draws_repeat_with_the_seed_and_differ_between_updates(self):
        draw = lambda replay, i: replay.sample(20, tf.constant(i, tf.int64)).slots.numpy().tolist()
        for kind in ("uniform", "prioritized"):
            replays = [make(kind=kind, seed=s)[0] for s in (3, 3, 4)]
            for replay in replays:
                replay.insert(chunk_of(replay._layout, np.arange(500)))
            self.assertEqual(draw(replays[0], 7), draw(replays[1], 7))
            self.assertNotEqual(draw(replays[0], 7), draw(replays[0], 8))
            self.assertNotEqual(draw(replays[0], 7), draw(replays[2], 7))

    @parameterized.parameters(False, True)
    def test_sums_follow_the_weights(self, xla):
        """Random inserts and updates, with items twice in a batch; the twin adds up anew."""
        rng = np.random.default_rng(0)
        replay, layout, _ = make(kind="prioritized", capacity_items=70, priority_exponent=0.5)
        update = tf.function(replay.update_priorities, jit_compile=xla)
        weights, largest = np.zeros(70), 1.0
        for _ in range(30):
            new = rng.integers(1, 20)
            slots = (replay.written + np.arange(new)) % 70
            replay.insert(chunk_of(layout, np.zeros(new)))
            weights[slots] = largest**0.5
            drawn = rng.integers(0, replay.size, 32)
            priority = rng.uniform(0.1, 3.0, 70).astype(np.float32)
            update(tf.constant(drawn, tf.int32), tf.constant(priority[drawn]))
            weights[drawn], largest = priority[drawn] ** 0.5, max(largest, priority[drawn].max())
        found, sums, most = (v.numpy() for v in replay.priority_variables)
        self.assertAllClose(found[:70], weights, rtol=1e-6)
        self.assertAllEqual(found[70:], np.zeros(len(found) - 70))
        self.assertAllClose(sums, found.reshape(len(sums), -1).sum(1), rtol=1e-6)
        self.assertAllClose(most, largest)
        self.assertAllClose(replay.max_priority, largest)


class SavedTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(30, 95, 0)
    def test_rows_and_priorities(self, filled):
        replay, layout, _ = make(kind="prioritized", capacity_items=61, priority_exponent=0.6)
        if filled:
            replay.insert(chunk_of(layout, np.arange(filled)))
            slots = tf.constant(replay.live())
            replay.update_priorities(slots, tf.range(1.0, len(slots) + 1.0))
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        replay.save(folder)
        self.assertTrue(learner_replay.saved_here(folder))
        again, _, _ = make(kind="prioritized", capacity_items=61, priority_exponent=0.6)
        again.restore(folder)
        self.assertEqual(rewards_in(again, layout), rewards_in(replay, layout))
        self.assertEqual(again.max_priority, replay.max_priority)
        weights = [r.priority_variables[0].numpy()[r.live()] for r in (replay, again)]
        self.assertAllEqual(*weights)
        sums = again.priority_variables[1].numpy()
        self.assertAllClose(sums.sum(), weights[0].sum(), rtol=1e-6)
        again.insert(chunk_of(layout, [1_000.0]))
        self.assertEqual(rewards_in(again, layout)[-1], 1_000.0)
        self.assertEqual(again.size, min(filled + 1, 61))

    @parameterized.parameters(
        ("prioritized", 40, False),
        ("prioritized", 100, False),
        ("prioritized", 100, True),
        ("uniform", 100, False),
    )
    def test_a_restored_one_draws_what_the_saved_one_would(self, kind, written, frames):
        """Also once the ring has wrapped; to the last bit, and still after both went on."""
        changes = dict(kind=kind, capacity_items=61, priority_exponent=0.6)
        if frames:
            spec, script = trajectories.stacked_script(1, 2 * written + 20, 4, 5, 3, True, False)
            (replay, layout, replay_plan), (again, _, _) = (make(spec, **changes) for _ in range(2))
            sink = ChunkWriter(replay.insert, replay_plan.item, layout, 1, 16)
            for acted in script.acted:
                if replay.written < written:
                    sink.write(*acted)
            sink.flush()
        else:
            (replay, layout, _), (again, _, _) = (make(**changes) for _ in range(2))
            for i in range(written):
                replay.insert(chunk_of(layout, [float(i)]))
        priorities = np.random.default_rng(0).gamma(1.0, size=replay.size).astype(np.float32)

        def change(target, slots):
            if kind == "prioritized":
                for some in np.array_split(np.arange(len(slots)), 5):  # sums are made in turns
                    target.update_priorities(
                        tf.constant(slots[some]), tf.constant(priorities[some])
                    )

        change(replay, replay.live())
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        replay.save(folder)
        again.restore(folder)

        def compare():
            draws = [tf.function(lambda i, r=r: r.sample(32, i)) for r in (again, replay)]
            for update in tf.range(4, dtype=tf.int64):
                tree.map_structure(self.assertAllEqual, *(draw(update) for draw in draws))

        compare()
        for target in (again, replay):
            change(target, target.live()[:7])
            if not frames:
                target.insert(chunk_of(layout, [1_000.0, 1_001.0]))
        compare()

    @parameterized.parameters(learner_replay.PIECE_BYTES, 100)
    def test_frames(self, piece):
        """In one piece, or a few frames at a time."""
        self.enter_context(mock.patch.object(learner_replay, "PIECE_BYTES", piece))
        spec, script = trajectories.stacked_script(2, 120, 4, 5, 3, True, False)
        replay, layout, replay_plan = make(spec, capacity_items=80)
        sink = ChunkWriter(replay.insert, replay_plan.item, layout, 2, 16)
        for acted in script.acted[:90]:
            sink.write(*acted)
        sink.flush()
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"
        replay.save(folder)
        again, _, _ = make(spec, capacity_items=80)
        again.restore(folder)
        self.assertEqual(replay.size, again.size)

        def compare():
            for mine, theirs in zip(items_in(again, layout), items_in(replay, layout)):
                self.assertAllEqual(mine.obs_tm1, theirs.obs_tm1)
                self.assertAllEqual(mine.obs_t, theirs.obs_t)
                self.assertEqual(mine.reward, theirs.reward)

        compare()
        # A new writer goes on, as after a resume.
        for target in (replay, again):
            is_first = ChunkWriter(target.insert, replay_plan.item, layout, 2, 16, writer=5)
            for acted in script.acted[90:]:
                is_first.write(*acted)
            is_first.flush()
        self.assertEqual(replay.size, again.size)
        compare()


class QueueTest(tf.test.TestCase):
    def serve(self, max_chunks):
        server = reverb.Server([chunks_table(max_chunks)])
        self.addCleanup(server.stop)
        return reverb.Client(f"localhost:{server.port}")

    def test_chunks_arrive_once_in_order_whatever_their_size(self):
        client = self.serve(100)
        layout = TransitionLayout(SPEC, False)
        send = ChunkSender(client, lambda what, fn, *args: fn(*args))
        sizes = [3, 1, 128, 7, 50]
        starts = np.cumsum([0, *sizes])
        for start, size in zip(starts, sizes):
            send(chunk_of(layout, np.arange(start, start + size)))
        send.close()
        source = Chunks(client)
        replay, _, _ = make()
        for size in sizes:
            chunk = source.next()
            self.assertEqual(chunk.rows.shape, (size, layout.packing.nbytes))
            replay.insert(chunk)
        self.assertEqual(rewards_in(replay, layout), list(range(sum(sizes))))
        self.assertEqual(client.server_info()["chunks"].current_size, 0)

    def test_frames_of_two_writers_do_not_mix(self):
        client = self.serve(1_000)
        spec, script = trajectories.stacked_script(1, 60, 4, 6, 2, True, False)
        replay, layout, replay_plan = make(spec)
        call = lambda what, fn, *args: fn(*args)
        for writer in range(2):
            send = ChunkSender(client, call)
            sink = ChunkWriter(send, replay_plan.item, layout, 1, 5, writer)
            for acted in script.acted:
                sink.write(*acted)
            sink.flush()
            send.close()
        source = Chunks(client)
        chunks = [source.next() for _ in range(client.server_info()["chunks"].current_size)]
        expected = reference.n_step_items(script.rows[0], 1, 0.9)
        half = [[b for b in chunks if b.writer == w] for w in range(2)]
        for pair in zip(*half, strict=True):  # alternately, as from two processes
            for chunk in pair:
                replay.insert(chunk)
        key = lambda i: (np.asarray(i.obs_tm1).tobytes(), float(i.reward))
        found = sorted(items_in(replay, layout), key=key)
        for mine, theirs in zip(found, sorted([*expected, *expected], key=key), strict=True):
            self.assertAllEqual(mine.obs_tm1, theirs.obs_tm1)
            self.assertAllEqual(mine.obs_t, theirs.obs_t)

    def test_a_full_queue_holds_the_sender(self):
        client = self.serve(2)
        layout = TransitionLayout(SPEC, False)
        send = ChunkSender(client, lambda what, fn, *args: fn(*args))
        sent = []

        def fill():
            for i in range(6):
                send(chunk_of(layout, [float(i)]))
                sent.append(i)
            send.close()

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        time.sleep(1.0)
        self.assertLess(len(sent), 5)
        source = Chunks(client)
        rewards = []
        for _ in range(6):
            records = np.frombuffer(source.next().rows.tobytes(), layout.packing.dtype)
            rewards += records["reward"].tolist()
        thread.join(20)
        self.assertFalse(thread.is_alive())
        self.assertEqual(rewards, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


class MemoryTest(tf.test.TestCase):
    def test_it_is_known_before_it_is_taken(self):
        spec, _ = trajectories.stacked_script(1, 1, 4, 84, 0, True, True)
        layout = TransitionLayout(spec, True)
        replay_plan = plan("prioritized", capacity_items=300)
        stated = learner_replay.sizes(replay_plan, layout).nbytes
        replay = LearnerReplay(replay_plan, layout, 0)
        taken = sum(
            v.numpy().nbytes for v in vars(replay).values() if isinstance(v, tf.Variable)
        ) + sum(a.nbytes for a in vars(replay).values() if isinstance(a, np.ndarray))
        self.assertBetween(stated, 0.999 * taken, 1.001 * taken)
        self.assertGreater(stated, 300 * 84 * 84)
        self.assertLess(stated, 2 * 300 * 84 * 84)

    @absltest.skipUnless(pathlib.Path("/proc/self/clear_refs").exists(), "peaks are Linux's")
    def test_saving_takes_no_second_copy(self):
        spec, _ = trajectories.stacked_script(1, 1, 4, 84, 0, True, True)
        replay, layout, _ = make(spec, capacity_items=20_000)
        frames = np.zeros((20_000, 84, 84), np.uint8)
        frames[:] = np.arange(20_000, dtype=np.uint8)[:, None, None]
        refs = np.minimum(np.arange(20_000)[:, None] + np.arange(8), 19_999)
        rows = rows_of(layout, np.arange(20_000))
        replay.insert(Chunk(rows, frames, refs, np.int64(0), np.int64(0)))
        del frames
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "replay"

        def resident_mb(key):
            status = pathlib.Path("/proc/self/status").read_text()
            return int(status.split(key + ":")[1].split()[0]) / 1024

        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        before = resident_mb("VmRSS")
        replay.save(folder)
        self.assertLess(resident_mb("VmHWM") - before, 60)  # of 135
        saved = np.load(folder / "frames.npy", mmap_mode="r")
        self.assertAllEqual(saved[:, 0, 0], np.arange(20_000, dtype=np.uint8))

    def test_too_large_is_refused(self):
        spec, _ = trajectories.stacked_script(1, 1, 4, 84, 0, True, True)
        layout = TransitionLayout(spec, False)
        learner_replay.check_memory(plan(), layout)
        with self.assertRaisesRegex(
            SettingError,
            r"replay_residency=learner: a replay of 1,000,000,000 items of [\d,]+ bytes takes [\d,]+ MB, "
            r"expected at most the [\d,]+ MB that are free",
        ):
            learner_replay.check_memory(plan(capacity_items=10**9), layout)


if __name__ == "__main__":
    tf.test.main()
