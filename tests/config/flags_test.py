"""Flags from settings dataclasses: types, files, errors, help, and the documentation table."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import pathlib
import sys
import tempfile
import types
from unittest import mock

from absl import flags as absl_flags
from absl.testing import absltest, parameterized

from tfrl.config import flags
from tfrl.errors import SettingError
from tfrl.job import EnvPlan, Job
from tfrl.settings import setting, validate

ALGO = "toy.algo"


@dataclasses.dataclass(frozen=True)
class Config:
    batch_size: int = setting(32, "items per update", unit="items", minimum=1)
    learning_rate: float = setting(1e-3, "step size", above=0.0)
    clip: float | None = setting(None, "limit of the gradient", above=0.0)
    double: bool = setting(True, "two networks")
    sizes: tuple[int, ...] = setting((64, 64), "units of the layers", minimum=1)
    names: tuple[str, ...] = setting((), "words")
    activation: str | None = setting("relu", "after each layer", choices=("relu", "tanh", None))
    extra: dict = setting({"a": 1}, "free values | of any kind")

    def __post_init__(self) -> None:
        validate(self)


@dataclasses.dataclass(frozen=True)
class Clash:
    seed: int = setting(0, "also a scalar of Job")


class FlagsTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        module = types.ModuleType(ALGO, "Toy: an algorithm of the tests.\n\nMore.")
        module.Config, module.make = Config, lambda config, spec: None
        self.enter_context(mock.patch.dict(sys.modules, {ALGO: module}))
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def parse(self, *argv):
        return flags.parse([f"--algo={ALGO}", *argv])

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return str(path)


class ParseTest(FlagsTestCase):
    def test_nothing_given_is_the_defaults(self):
        self.assertEqual(self.parse(), Job(algo=ALGO, config=Config()))

    @parameterized.parameters(
        ("--batch_size=8", "batch_size", 8),
        ("--batch_size=1e3", "batch_size", 1000),
        ("--batch_size=1_000", "batch_size", 1000),
        ("--learning_rate=1", "learning_rate", 1.0),
        ("--clip=0.5", "clip", 0.5),
        ("--clip=none", "clip", None),
        ("--double=false", "double", False),
        ("--nodouble", "double", False),
        ("--double", "double", True),
        ("-double=0", "double", False),
        ("--sizes=16", "sizes", (16,)),
        ("--sizes=16, 8", "sizes", (16, 8)),
        ("--names=", "names", ()),
        ("--names=a,b", "names", ("a", "b")),
        ("--activation=tanh", "activation", "tanh"),
        ("--activation=none", "activation", None),
        ('--extra={"b": [1, 2]}', "extra", {"b": [1, 2]}),
    )
    def test_value(self, argument, name, expected):
        value = getattr(self.parse(argument).config, name)
        self.assertEqual(value, expected)
        self.assertIs(type(value), type(expected))

    def test_every_part_of_the_job_has_flags(self):
        job = self.parse(
            "--seed", "3", "--env=Acrobot-v1", "--noclip_rewards", "--num_envs=8",
            "--eval_episodes=5", "--checkpoint_keep=7", "--console=none", "--resume",
            "--total_env_steps=1e6",
        )  # fmt: skip
        self.assertEqual((job.seed, job.total_env_steps, job.resume), (3, 1_000_000, True))
        self.assertEqual((job.env.env, job.env.clip_rewards), ("Acrobot-v1", False))
        self.assertEqual((job.topology.num_envs, job.evaluation.eval_episodes), (8, 5))
        self.assertEqual((job.checkpoint.checkpoint_keep, job.log.console), (7, "none"))

    def test_later_wins(self):
        self.assertEqual(self.parse("--batch_size=1", "--batch_size=2").config.batch_size, 2)

    def test_only_what_is_given_is_reported(self):
        tokens = flags.expand([f"--algo={ALGO}", "--seed=0"])
        given = flags.parse_given(tokens).given
        self.assertEqual({k: v for k, v in given.items() if v}, {"job": {"seed": 0}})

    def test_algorithm_of_the_caller_is_used_when_none_is_given(self):
        self.assertEqual(flags.parse_given(flags.expand([]), algo=ALGO).algo, ALGO)

    def test_no_hidden_global(self):
        before = set(absl_flags.FLAGS)
        self.parse("--batch_size=8")
        self.assertEqual(set(absl_flags.FLAGS), before)
        self.assertEqual(self.parse().config.batch_size, 32)

    def test_a_name_of_two_classes_is_a_programming_error(self):
        with self.assertRaisesRegex(TypeError, "--seed is defined by .*Clash and by Job"):
            flags.define(flags.job_sections(Clash))


class ErrorTest(FlagsTestCase):
    @parameterized.parameters(
        (["--learning_rat=1"], "--learning_rat: unknown flag; did you mean --learning_rate?"),
        (["--nodoubel"], "--nodoubel: unknown flag; did you mean --double?"),
        (["--qqqqqq=1"], "--qqqqqq: unknown flag; --help lists all flags"),
        (["--undefok=a", "--a=1"], "--undefok: unknown flag; --help lists all flags"),
        (["--batch_size=abc"], "--batch_size=abc: expected int"),
        (["--batch_size=1.5"], "--batch_size=1.5: expected int"),
        (["--batch_size=inf"], "--batch_size=inf: expected int"),
        (["--batch_size=none"], "--batch_size=none: expected int"),
        (["--learning_rate=inf"], "learning_rate=inf: expected a number within 3.4"),
        (["--learning_rate=nan"], "learning_rate=nan: expected a number within 3.4"),
        (["--learning_rate=1e300"], "learning_rate=1e+300: expected a number within 3.4"),
        (["--learning_rate=x"], "--learning_rate=x: expected float"),
        (["--clip=x"], "--clip=x: expected float or none"),
        (["--double=maybe"], "--double=maybe: expected bool"),
        (["--sizes=1,b"], "--sizes=1,b: expected list of int"),
        (["--extra=[1]"], "--extra=[1]: expected JSON object"),
        (["--extra={"], "--extra={: expected JSON object"),
        (["--batch_size"], "--batch_size: expected a value"),
        (["--nodouble=1"], "--nodouble=1 does not take an argument"),
        (["word"], "unexpected argument 'word'; flags are written --name=value"),
        (["--", "--seed=1"], "unexpected argument '--seed=1'; flags are written --name=value"),
        (["--batch_size=0"], "batch_size=0: expected at least 1 items"),
        (["--activation=rel"], "activation='rel': expected one of relu, tanh, None; did you mean"),
        (["--num_actors=2"], "num_actors=2 with backend=inprocess"),
        (["--flagfile="], "--flagfile: expected the path of a file"),
        (["--flagfile"], "--flagfile: expected the path of a file"),
    )
    def test_message(self, argv, message):
        with self.assertRaises(SettingError) as caught:
            self.parse(*argv)
        self.assertStartsWith(str(caught.exception), message)
        self.assertNotIn("\n", str(caught.exception))

    def test_no_algorithm(self):
        with self.assertRaisesRegex(SettingError, "--algo: not given; expected one of .*dqn"):
            flags.parse([])

    def test_unknown_algorithm_names_the_nearest(self):
        with self.assertRaisesRegex(SettingError, r"algo='dqm': no such .* did you mean dqn\?"):
            flags.parse(["--algo=dqm"])

    @parameterized.parameters(
        ("DQM", r"did you mean dqn\?"),
        (".", "expected the name of a module"),
        ("..x", "expected the name of a module"),
        ("no.such", r"cannot import 'no.such' \(No module named 'no'\)"),
        (
            "broken_at.work",
            r"cannot import 'broken_at.work' \(NameError: name 'x' is not defined, .*work.py:2\)",
        ),
        ("broken_at.text", r"cannot import 'broken_at.text' \(SyntaxError: .*text.py, line 1\)"),
    )
    def test_algorithm_that_cannot_be_imported(self, name, message):
        folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
        (folder / "broken_at").mkdir()
        (folder / "broken_at" / "work.py").write_text("y = 1\nx\n")
        (folder / "broken_at" / "text.py").write_text("def :\n")
        self.enter_context(mock.patch.object(sys, "path", [str(folder), *sys.path]))
        importlib.invalidate_caches()
        with self.assertRaisesRegex(SettingError, f"^algo='{name}': .*{message}") as caught:
            flags.parse([f"--algo={name}"])
        self.assertNotIn("\n", str(caught.exception))

    def test_flag_of_another_algorithm(self):
        with self.assertRaisesRegex(
            SettingError, r"--dueling: unknown .* setting of .*\bdqn\b.*, not of toy"
        ):
            self.parse("--dueling=true")


class FlagfileTest(FlagsTestCase):
    def test_algorithm_comments_and_order(self):
        path = self.write(
            "a.flags", f"# comment\n\n  --algo={ALGO}\n--batch_size=4\n--nodouble\n--sizes=1,2\n"
        )
        job = flags.parse(["--batch_size=2", f"--flagfile={path}", "--sizes=3"])
        self.assertEqual(job.algo, ALGO)
        self.assertEqual((job.config.batch_size, job.config.sizes), (4, (3,)))
        self.assertFalse(job.config.double)

    def test_separate_value(self):
        path = self.write("a.flags", "--batch_size=4\n")
        self.assertEqual(self.parse("--flagfile", path).config.batch_size, 4)

    def test_nested_beside_the_file_and_from_the_working_directory(self):
        self.write("sub/b.flags", "--batch_size=5\n--seed=1\n")
        self.write("c.flags", "--total_env_steps=7\n")
        path = self.write("sub/a.flags", "--flagfile=b.flags\n--flagfile=c.flags\n--seed=2\n")
        here = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, here)
        job = self.parse(f"--flagfile={path}")
        self.assertEqual((job.config.batch_size, job.seed, job.total_env_steps), (5, 2, 7))

    def test_later_algorithm_wins(self):
        path = self.write("a.flags", "--algo=dqn\n")
        self.assertEqual(flags.parse([f"--flagfile={path}", f"--algo={ALGO}"]).algo, ALGO)

    @parameterized.parameters(
        ("--batch_size=abc\n", "--batch_size=abc: expected int (PATH:1)"),
        ("\n--batch_sise=1\n", "--batch_sise: unknown flag; did you mean --batch_size? (PATH:2)"),
        ("batch_size=1\n", "PATH:1: 'batch_size=1': expected --name=value"),
        ("--batch_size 1\n", "PATH:1: '--batch_size 1': expected --name=value"),
        ("--flagfile=zzz\n", "--flagfile=zzz: no such file (PATH:1)"),
        ("--flagfile=a.flags\n", "--flagfile=a.flags: the file includes itself (PATH:1)"),
    )
    def test_error_says_where(self, text, message):
        path = self.write("a.flags", text)
        with self.assertRaises(SettingError) as caught:
            self.parse(f"--flagfile={path}")
        self.assertEqual(str(caught.exception), message.replace("PATH", path))

    def test_missing_file_names_the_nearest(self):
        self.write("configs/dqn/cartpole.flags", "")
        with mock.patch.object(flags, "CONFIGS", self.folder / "configs"):
            for wrong in ("configs/dqn/cartpol.flags", "dqn/cartpole.flag"):
                with self.assertRaises(SettingError) as caught:
                    self.parse(f"--flagfile={wrong}")
                self.assertEqual(
                    str(caught.exception),
                    f"--flagfile={wrong}: no such file; did you mean configs/dqn/cartpole.flags?",
                )

    def test_missing_file_of_a_name_that_several_algorithms_have(self):
        for algo in ("ddpg", "sac", "td3"):
            self.write(f"configs/{algo}/pendulum.flags", "")
        cases = {
            ("--algo=sac", "--flagfile=pendulum"): "sac/pendulum",
            ("--flagfile=sac/pendulun",): "sac/pendulum",
            ("--flagfile=pendulun.flags", "--algo=td3"): "td3/pendulum",
            ("--algo=sac", "--flagfile=tf3/pendulum"): "sac/pendulum",
            ("--flagfile=tdd3/pendulum",): "td3/pendulum",
            ("--algo=ddpg", "--flagfile=pendulum_tqc"): "ddpg/pendulum",
            ("--flagfile=/nowhere/x.flags",): None,
        }
        self.write("configs/td3/pendulum_tqc.flags", "")
        with mock.patch.object(flags, "CONFIGS", self.folder / "configs"):
            with self.assertRaisesRegex(
                SettingError, "the nearest is configs/ddpg/pendulum.flags, of another algorithm$"
            ):
                self.parse("--algo=dqn", "--flagfile=pendulun")
            for argv, nearest in cases.items():
                end = f"; did you mean configs/{nearest}.flags\\?" if nearest else ""
                with self.assertRaisesRegex(SettingError, f"no such file{end}$"):
                    self.parse(*argv)

    def test_folder_and_binary_file(self):
        with self.assertRaisesRegex(SettingError, "cannot be read .Is a directory"):
            self.parse(f"--flagfile={self.folder}")
        (self.folder / "x").write_bytes(b"\xff\xfe")
        with self.assertRaisesRegex(SettingError, "cannot be read .not a text file"):
            self.parse(f"--flagfile={self.folder / 'x'}")


class HelpTest(FlagsTestCase):
    def help(self, *argv):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as caught:
            flags.parse(argv)
        self.assertEqual(caught.exception.code, 0)
        return out.getvalue()

    def test_without_algorithm(self):
        text = self.help("--help")
        self.assertIn("\n  dqn  ", text)
        for name in ("--algo", "--flagfile", "--seed", "--env", "--num_envs", "--console"):
            self.assertIn(f"\n  {name}  ", text)
        self.assertNotIn("--learning_rate", text)

    def test_with_algorithm_shows_all_that_is_known_of_a_setting(self):
        text = self.help(f"--algo={ALGO}", "--help", "--batch_size=abc")
        self.assertIn("Toy: an algorithm of the tests.", text)
        self.assertIn(
            "\n  --batch_size  int [items]; default 32; at least 1\n      items per", text
        )
        self.assertIn("--learning_rate  float; default 0.001; more than 0", text)
        self.assertIn("--clip  float or none; default none", text)
        self.assertIn("--sizes  list of int; default 64,64", text)
        self.assertIn("one of relu, tanh, none", text)
        for section in flags.job_sections(Config):
            self.assertIn(f"\n{section.title}\n", text)
            for name in section.names:
                self.assertIn(f"\n  --{name}  ", text)
        self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_values_that_the_help_shows_can_be_typed(self):
        for cls in (Config, EnvPlan):
            for field in dataclasses.fields(cls):
                text = flags.default_text(field)
                value = flags.convert(
                    "" if text == "''" else text, flags.field_types(cls)[field.name]
                )
                self.assertEqual(value, getattr(cls(), field.name), field.name)


class OptionsTest(FlagsTestCase):
    def test_options_and_positional_arguments(self):
        options, rest = flags.parse_options(
            Config, ["a", "--batch_size=3", "b"], "usage", positional="folders"
        )
        self.assertEqual((options.batch_size, rest), (3, ["a", "b"]))
        with self.assertRaisesRegex(SettingError, "unexpected argument 'a'"):
            flags.parse_options(Config, ["a"], "usage")

    def test_help(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit):
            flags.parse_options(Config, ["--help"], "usage of it")
        self.assertStartsWith(out.getvalue(), "usage of it\n")
        self.assertIn("--batch_size", out.getvalue())


class TableTest(absltest.TestCase):
    def test_settings_table(self):
        lines = flags.settings_table(Config).splitlines()
        self.assertEqual(lines[0], "| setting | type | default | unit | meaning |")
        self.assertEqual(
            lines[2], "| `batch_size` | int | `32` | items | items per update; at least 1 |"
        )
        self.assertEqual(
            lines[-1],
            '| `extra` | JSON object | `{"a": 1}` |  | free values \\| of any kind |',
        )
        self.assertLen(lines, 2 + len(dataclasses.fields(Config)))


if __name__ == "__main__":
    absltest.main()
