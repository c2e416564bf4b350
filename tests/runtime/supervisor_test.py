"""The rules of a run over members in memory: who is replaced, what ends it, and in which order; time is a number."""

import dataclasses
import io
import pathlib
import tempfile

import tensorflow as tf
from absl.testing import absltest, parameterized

from tfrl.api import make_job
from tfrl.errors import RunFailed
from tfrl.logs.logger import Logger
from tfrl.runtime import supervisor as supervisor_lib
from tfrl.runtime.hooks import Hooks
from tfrl.runtime.link import ABANDON, FINISH, RUN, Status
from tfrl.runtime.placement import Placement
from tfrl.runtime.plan.run_plan import plan_run
from tfrl.runtime.stop import Stop
from tfrl.runtime.supervisor import Supervisor

SETTINGS = dict(
    env="tfrl.testing.fakes:IdentityGame", backend="processes", num_actors=2, total_env_steps=2_000,
    min_replay=100, replay_residency="server", hidden_sizes=(8,), eval_every_env_steps=0,
    console="plain", tensorboard=False, episodes_csv=False, heartbeat_timeout_s=20,
)  # fmt: skip
START_S = 5.0  # until a member has built its parts


@dataclasses.dataclass
class Life:
    """The state of a member in memory."""

    started: float
    orders: dict = dataclasses.field(default_factory=lambda: {"stop": RUN, "env_steps": 0})
    numbers: dict = dataclasses.field(default_factory=dict)
    exit: str = ""  # how it ended, '' while it lives
    last: Status | None = None  # sent just before that
    silent: bool = False  # frozen as a whole
    stuck_at: float | None = None  # its loop has stopped then
    waits: bool = False  # for the answer to its last status
    ends: bool = False  # with its next look


class Memory(Placement):
    """Members that play their roles by arithmetic; each `poll` takes 0.1 s.

    Attributes:
      now: seconds.
      lives: {name of a member: Life}, also of those that were killed.
      events: ('start' | 'kill', name) and ('stop', role, order) in the order in which they happened.
      at: [(test, fn)]: `fn` is called once after the first poll at which `test` holds.
    """

    def __init__(self):
        self.now, self.lives, self.members, self.events = 0.0, {}, {}, []
        self.at, self.pause_s, self.closed, self.slow = [], 0.0, False, set()

    def start(self, member):
        assert member.name not in self.lives, "a name is used twice"
        self.events.append(("start", member.name))
        self.members[member.name], self.lives[member.name] = member, Life(self.now)

    def poll(self, timeout_s):
        self.now += timeout_s + self.pause_s
        found, asleep = [], self.pause_s > 0  # of all: their statuses come later
        self.pause_s = 0.0
        for name, member in self.members.items():
            life = self.lives[name]
            if not (asleep or life.exit or life.silent or life.waits):
                life.waits = True
                found.append((member, self.status(member, life)))
            elif life.last is not None:
                found.append((member, life.last))
                life.last = None
        for pair in list(self.at):
            if pair[0]():
                self.at.remove(pair)
                pair[1]()
        return found

    def send(self, member, orders):
        life = self.lives[member.name]
        assert life.waits or life.exit, "answered without a status"
        if orders["stop"] != life.orders["stop"]:
            self.events.append(("stop", member.role, orders["stop"]))
        life.waits, life.orders = False, orders
        if life.ends:
            life.exit = "ended with exit code 0"

    def alive(self, member):
        return not self.lives[member.name].exit

    def exit_text(self, member):
        return self.lives[member.name].exit

    def kill(self, member):
        self.events.append(("kill", member.name))
        del self.members[member.name]
        life = self.lives[member.name]
        life.exit = life.exit or "was killed"

    def where(self, member):
        return f"the log of {member.name}"

    def close(self):
        for member in list(self.members.values()):
            self.kill(member)
        self.closed = True

    def status(self, member, life):
        if self.now - life.started < START_S:
            return Status()
        orders, numbers, row = life.orders, life.numbers, None
        if life.stuck_at is not None:
            return Status(ready=True, idle_s=self.now - life.stuck_at, numbers=dict(numbers))
        ends = orders["stop"] != RUN and member.name not in self.slow
        getattr(self, f"{member.role}_works")(member, orders, numbers)
        if member.role == "evaluator" and numbers.get("evaluated", 0) < orders["evaluate"][0]:
            numbers["evaluated"] = orders["evaluate"][0]
            row = {"run/env_steps": float(orders["evaluate"][1]), "evaluator/return_mean": 1.0}
        if member.role == "learner" and ends and not numbers.get("final"):
            numbers.update(final=True, saved_at_env_steps=orders["env_steps"])
        life.ends = ends
        return Status(ready=True, numbers=dict(numbers), row=row, done=ends)

    def replay_works(self, member, orders, numbers):
        port = orders.get("port") or 1_000 + member.index
        numbers.update(address=f"localhost:{port}", inserted=orders["env_steps"])
        if ("start", "weights 0") not in self.events:
            numbers["variables"] = f"localhost:{2_000 + member.index}"

    def weights_works(self, member, orders, numbers):
        numbers["variables"] = f"localhost:{3_000 + member.index}"

    def actor_works(self, member, orders, numbers):
        made = numbers.get("env_steps", 0)
        if "addresses" in orders:
            made = min(orders["granted"], made + 10)
        numbers.update(
            env_steps=made, episodes=made // 10, version=1, seconds={"env": made / 1e3},
            weight_delay=1, knobs={"actor/epsilon": 0.1},
        )  # fmt: skip

    def learner_works(self, member, orders, numbers):
        if "addresses" in orders:
            numbers["updates"] = numbers.get("updates", 0) + 1
            numbers["version"] = numbers["updates"]

    def evaluator_works(self, member, orders, numbers):
        numbers["facts"] = {"gap": float(orders["evaluate"][0])}


class SupervisorTest(parameterized.TestCase):
    def make(self, **settings):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        job = make_job("dqn", run_dir=str(folder), **{**SETTINGS, **settings})
        self.run_plan = plan_run(job)
        self.out, self.stop, self.placement = io.StringIO(), Stop(), Memory()
        logger = Logger(folder, job.log, job.total_env_steps, out=self.out)
        self.addCleanup(logger.close)
        self.hooks = Hooks(self.run_plan)
        return Supervisor(
            self.run_plan, self.placement, logger, self.stop, self.hooks,
            clock=lambda: self.placement.now,
        )  # fmt: skip

    def when(self, test, fn):
        self.placement.at.append((test, fn))

    def at(self, seconds, fn):
        self.when(lambda: self.placement.now >= seconds, fn)

    def end(self, name, how="was killed by SIGKILL", error=None):
        """A member is gone; what it sent last, with the error of its role, has not been polled yet."""

        def now():
            life = self.placement.lives[name]
            life.exit = how
            life.last = Status(ready=True, numbers=dict(life.numbers), error=error)

        return now

    def checkpoint(self, replay=True):
        module = tf.Module()
        module.x = tf.Variable(0.0)
        save = (lambda folder: folder.mkdir()) if replay else None
        return self.run_plan.checkpoints.save(50, module, {"sampled": 7}, save)

    def events(self, kind):
        return [event[1:] for event in self.placement.events if event[0] == kind]

    def names(self, role):
        return [name for (name,) in self.events("start") if name.startswith(role)]

    def assert_fails(self, supervisor, message):
        with self.assertRaisesRegex(RunFailed, message):
            supervisor.run()
        self.assertTrue(self.placement.closed)
        self.assertEmpty(self.placement.members)

    def test_an_undisturbed_run_ends_in_order(self):
        supervisor = self.make()
        scratch = self.run_plan.checkpoints.folder / f"{supervisor_lib.checkpoint_files.SCRATCH}0-x"
        scratch.mkdir(parents=True)
        outcome = supervisor.run()
        self.assertEqual(outcome["totals"].env_steps, 2_000)  # leases end with the run
        made = [self.placement.lives[name].numbers for name in ("actor 0", "actor 1")]
        self.assertEqual(outcome["totals"].episodes, sum(m["episodes"] for m in made))
        self.assertAlmostEqual(outcome["totals"].seconds["env"], 2.0)
        self.assertEqual(
            self.events("start"),
            [("replay 0",), ("learner 0",), ("actor 0",), ("actor 1",), ("evaluator 0",)],
        )
        stops = list(dict.fromkeys(self.events("stop")))
        self.assertEqual(
            stops,
            [("actor", FINISH), ("learner", FINISH), ("evaluator", ABANDON), ("replay", FINISH)],
        )
        self.assertEqual(self.placement.lives["evaluator 0"].numbers["evaluated"], 1)
        self.assertTrue(self.placement.closed)
        self.assertFalse(scratch.exists())
        # A member that has ended by itself is cleared away too: what it started may still be there.
        self.assertLen(self.events("kill"), 5)

    def test_no_actor_runs_far_ahead_of_the_others(self):
        supervisor = self.make(total_env_steps=4_000)
        most = []

        def look():
            open_steps = [m.granted - m.numbers.get("env_steps", 0) for m in supervisor.members]
            most.append(max(open_steps))
            return False

        self.when(look, None)
        supervisor.run()
        # 10 env steps in 0.1 s come to a lease of 50; a call of the learner takes less.
        self.assertBetween(max(most), 50, 50 + self.run_plan.env_steps_per_call)

    def test_an_evaluation_is_ordered_on_the_way_and_not_twice_at_the_end(self):
        supervisor = self.make(eval_every_env_steps=1_000)
        supervisor.run()
        self.assertEqual(self.placement.lives["evaluator 0"].numbers["evaluated"], 2)
        for name in ("actor 0", "actor 1", "learner 0"):  # the facts of the first one arrive
            self.assertEqual(self.placement.lives[name].orders["facts"]["gap"], 1.0)

    def test_a_callback_ends_a_run_in_order(self):
        supervisor = self.make(total_env_steps=10_000)
        self.at(10.0, lambda: self.hooks.run.stop("enough"))
        self.assertLess(supervisor.run()["totals"].env_steps, 2_000)
        self.assertIn(("actor", FINISH), self.events("stop"))
        self.assertEqual(self.placement.lives["evaluator 0"].numbers["evaluated"], 1)

    def test_an_actor_is_replaced_in_its_slot_and_its_steps_count(self):
        supervisor = self.make()
        self.at(8.0, self.end("actor 1"))
        self.assertEqual(supervisor.run()["totals"].env_steps, 2_000)
        self.assertEqual(self.names("actor"), ["actor 0", "actor 1", "actor 2"])
        self.assertIn("actor 1 was killed by SIGKILL; actor 2 takes its place", self.out.getvalue())

    def test_an_actor_that_ends_at_the_end_is_not_replaced(self):
        supervisor = self.make()
        self.placement.slow.add("actor 0")
        self.when(lambda: ("stop", "actor", FINISH) in self.placement.events, self.end("actor 0"))
        supervisor.run()
        self.assertEqual(self.names("actor"), ["actor 0", "actor 1"])

    def test_three_failures_in_a_row_end_the_run_with_the_first(self):
        supervisor = self.make(total_env_steps=100_000)
        error = ("ValueError: first", "the trace")
        self.at(8.0, self.end("actor 1", error=error))
        self.at(14.0, self.end("actor 2"))
        self.at(20.0, self.end("actor 3"))
        self.assert_fails(
            supervisor,
            r"^the trace\nactor 1 failed: ValueError: first; its log: the log of actor 1 \(3 times in a row\)$",
        )
        self.assertIn("actor 3 was killed by SIGKILL; the run ends", self.out.getvalue())
        self.assertIn(("learner", ABANDON), self.events("stop"))  # it saves before the end

    def test_failures_far_apart_are_not_in_a_row(self):
        supervisor = self.make(total_env_steps=40_000)
        for i in range(4):
            self.at(40.0 * (i + 1), self.end(f"actor {1 + i}"))
        self.assertEqual(supervisor.run()["totals"].env_steps, 40_000)
        self.assertEqual(self.names("actor")[-1], "actor 5")

    @parameterized.parameters(
        ("SettingError: no", ""), ("tfrl.errors.RunFailed: diverged", "trace")
    )
    def test_what_would_come_to_the_same_again_is_not_tried_again(self, error, trace):
        supervisor = self.make()
        self.at(8.0, self.end("actor 0", error=(error, trace)))
        start = f"{trace}\n" if trace else ""
        self.assert_fails(
            supervisor, f"^{start}actor 0 failed: {error}; its log: the log of actor 0$"
        )
        self.assertEqual(self.names("actor"), ["actor 0", "actor 1"])

    @parameterized.parameters(True, False)
    def test_a_learner_goes_on_from_the_newest_checkpoint(self, saved):
        supervisor = self.make()
        folder = self.checkpoint() if saved else None
        self.at(9.0, self.end("learner 0"))
        totals = supervisor.run()["totals"]
        self.assertEqual(self.names("learner"), ["learner 0", "learner 1"])
        self.assertEqual(self.names("actor"), ["actor 0", "actor 1"])
        made = [self.placement.lives[name].numbers["updates"] for name in self.names("learner")]
        self.assertEqual(totals.updates, sum(made))
        how = f"continues from {folder}" if saved else "starts from scratch: there is no checkpoint"
        self.assertIn(f"learner 0 was killed by SIGKILL; learner 1 {how}", self.out.getvalue())
        # What the first one did is not taken for work of the second, which alone knows its own.
        orders = self.placement.lives["learner 1"].orders
        self.assertEqual(orders["totals"]["updates"], made[0])

    def test_an_evaluator_is_replaced_and_gets_the_order_again(self):
        supervisor = self.make()
        self.when(
            lambda: ("stop", "learner", FINISH) in self.placement.events, self.end("evaluator 0")
        )
        supervisor.run()
        self.assertEqual(self.names("evaluator"), ["evaluator 0", "evaluator 1"])
        self.assertEqual(self.placement.lives["evaluator 1"].numbers["evaluated"], 1)

    def test_all_are_restarted_when_the_replay_is_gone(self):
        supervisor = self.make()
        folder = self.checkpoint()
        self.at(9.0, self.end("replay 0"))
        self.assertEqual(supervisor.run()["totals"].env_steps, 2_000)
        self.assertIn(
            f"replay 0 was killed by SIGKILL; all processes continue from {folder}",
            self.out.getvalue(),
        )
        self.assertLen(self.events("start"), 10)
        self.assertTrue(self.placement.lives["replay 1"].orders["restore"])
        self.assertEqual(self.placement.lives["learner 1"].orders["shards"], [(1, 7)])
        # The address of the dead one was not given to the new ones.
        self.assertEqual(self.placement.lives["actor 2"].orders["addresses"], ["localhost:1001"])

    @parameterized.parameters(True, False)
    def test_without_contents_in_a_checkpoint_a_lost_replay_ends_the_run(self, saved):
        supervisor = self.make()
        if saved:
            self.checkpoint(replay=False)
        self.at(9.0, self.end("replay 0"))
        self.assert_fails(
            supervisor,
            "^the replay is lost and no checkpoint holds its contents\nreplay 0 was killed by SIGKILL; its log",
        )

    def test_one_of_several_shards_starts_empty_at_its_old_port(self):
        supervisor = self.make(num_replay_shards=2)
        self.at(9.0, self.end("replay 1"))
        self.assertEqual(supervisor.run()["totals"].env_steps, 2_000)
        self.assertEqual(self.names("replay"), ["replay 0", "replay 1", "replay 2"])
        self.assertEqual(self.names("learner"), ["learner 0"])
        self.assertIn("shard 1 of the replay starts empty", self.out.getvalue())
        orders = self.placement.lives["replay 2"].orders
        self.assertEqual((orders["port"], orders["restore"]), (1_001, False))
        self.assertEqual(self.placement.lives["learner 0"].orders["shards"], [(0, 0), (2, 0)])

    def test_without_the_server_of_weights_all_are_restarted(self):
        supervisor = self.make(num_replay_shards=2)
        self.checkpoint()
        self.at(9.0, self.end("weights 0"))
        supervisor.run()
        self.assertEqual(self.names("weights"), ["weights 0", "weights 1"])
        self.assertEqual(self.placement.lives["actor 3"].orders["variables"], "localhost:3001")

    def test_without_a_checkpoint_a_lost_server_of_weights_ends_the_run(self):
        supervisor = self.make(num_replay_shards=2)
        self.at(9.0, self.end("weights 0"))
        self.assert_fails(supervisor, "^the weight server is lost and there is no checkpoint")

    def test_who_is_silent_or_stands_still_is_killed_and_replaced(self):
        supervisor = self.make(total_env_steps=20_000)
        self.at(10.0, lambda: setattr(self.placement.lives["actor 0"], "silent", True))
        self.at(20.0, lambda: setattr(self.placement.lives["actor 1"], "stuck_at", 20.0))
        supervisor.run()
        text = self.out.getvalue()
        for name, new in (("actor 0", "actor 2"), ("actor 1", "actor 3")):
            self.assertIn(f"{name} gave no sign of life for 20 s and was killed; {new} takes", text)
        starts = {name: life.started for name, life in self.placement.lives.items()}
        self.assertBetween(starts["actor 2"], 30.0, 30.5)
        self.assertBetween(starts["actor 3"], 40.0, 40.5)

    def test_who_is_still_starting_may_be_silent_for_longer(self):
        supervisor = self.make(total_env_steps=50_000)
        self.at(1.0, lambda: setattr(self.placement.lives["actor 0"], "silent", True))
        supervisor.run()
        self.assertIn("actor 0 gave no sign of life for 180 s and was killed", self.out.getvalue())

    def test_nobody_is_blamed_for_a_sleep_of_the_whole_machine(self):
        supervisor = self.make(total_env_steps=10_000)
        self.at(10.0, lambda: setattr(self.placement, "pause_s", 3_600.0))
        supervisor.run()
        self.assertNotIn("sign of life", self.out.getvalue())

    def test_a_stop_lets_the_learner_save_and_nobody_else_wait(self):
        supervisor = self.make(total_env_steps=100_000)
        self.placement.slow.update(["actor 0", "actor 1"])
        self.at(12.0, self.stop.request)
        outcome = supervisor.run()
        self.assertIn(("learner", ABANDON), self.events("stop"))
        self.assertNotIn(("learner", FINISH), self.events("stop"))
        self.assertIn("saved_at_env_steps", self.placement.lives["learner 0"].numbers)
        self.assertLess(self.placement.now, 12.0 + 2 * supervisor_lib.END_S)
        self.assertNotIn("killed before it saved", self.out.getvalue())
        # Nothing was really saved here, so what is left is an untrained policy.
        self.assertEqual(outcome["totals"].env_steps, 0)
        self.assertTrue((self.run_plan.checkpoints.folder / "last.npz").exists())

    def test_a_stop_while_members_start_waits_for_none_of_them(self):
        supervisor = self.make()
        self.at(START_S / 2, self.stop.request)
        supervisor.run()
        self.assertLess(self.placement.now, START_S + 2 * supervisor_lib.END_S)
        for name in ("learner 0", "actor 0", "actor 1", "evaluator 0"):
            self.assertEqual(self.placement.lives[name].exit, "was killed")

    @parameterized.parameters(False, True)
    def test_a_learner_that_is_late_is_killed_but_for_a_checkpoint_it_writes(self, saving):
        supervisor = self.make(total_env_steps=100_000)
        self.placement.slow.add("learner 0")
        self.at(12.0, self.stop.request)
        if saving:
            self.at(15.0, lambda: self.placement.lives["learner 0"].numbers.update(saving=True))
            self.at(50.0, lambda: setattr(self.stop, "hurried", True))
        supervisor.run()
        text = self.out.getvalue()
        self.assertIn("the learner was killed before it saved; older checkpoints are intact", text)
        self.assertEqual("writing a checkpoint; another signal abandons it" in text, saving)
        end = 50.0 if saving else 12.0 + supervisor_lib.HURRY_S
        self.assertBetween(self.placement.now, end, end + 2 * supervisor_lib.END_S)

    def test_nobody_is_replaced_after_a_stop(self):
        supervisor = self.make(total_env_steps=100_000)
        self.placement.slow.add("learner 0")
        self.at(12.0, self.stop.request)
        self.at(13.0, self.end("learner 0"))
        supervisor.run()
        self.assertEqual(self.names("learner"), ["learner 0"])


if __name__ == "__main__":
    absltest.main()
