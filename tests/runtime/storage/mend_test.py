"""A resume mends the run folder of a killed process before it reads it."""

import pathlib
import tempfile

from absl.testing import absltest, parameterized

from tfrl import files
from tfrl.logs import csv_file, episode_file
from tfrl.runtime.storage import checkpoint_files, mend

ROWS = "run/env_steps,run/updates\n10,1\n20,2\n"


class MendTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.run = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "run"
        self.checkpoints = self.run / "checkpoints"
        self.checkpoints.mkdir(parents=True)

    def checkpoint(self, env_steps, content=b"abc"):
        folder = self.checkpoints / f"{env_steps:012d}"
        folder.mkdir()
        (folder / "learner").write_bytes(content)
        checkpoint_files.seal(folder, {"identity": {}, "env_steps": env_steps})
        return folder

    def names(self, folder):
        return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))

    def test_a_whole_folder_stays_as_it_is(self):
        self.checkpoint(10)
        (self.run / "metrics.csv").write_text(ROWS)
        (self.run / "result.json").write_text('{"total_s": 1.5}')
        before = self.names(self.run)
        self.assertEmpty(mend.mend(self.run))
        self.assertEqual(self.names(self.run), before)
        self.assertEqual((self.run / "metrics.csv").read_text(), ROWS)

    def test_what_a_killed_process_has_left_goes(self):
        kept = self.checkpoint(10)
        (self.checkpoints / "000000000020").mkdir()  # without a manifest
        (self.checkpoints / "tfrl-replay-0-abc").mkdir()
        (self.run / "videos").mkdir()
        (self.run / "videos" / "x.part.mp4").write_bytes(b"")
        for path in (self.run / "result.json", self.run / "export", self.checkpoints / "best.npz"):
            scratch = files._beside(path, "tmp")
            scratch.mkdir() if path.name == "export" else scratch.write_text("{")
        self.assertEmpty(mend.mend(self.run))
        self.assertEqual(list(self.checkpoints.iterdir()), [kept])
        self.assertEqual(self.names(self.run / "videos"), [])
        self.assertEqual(sorted(p.name for p in self.run.iterdir()), ["checkpoints", "videos"])

    def test_an_export_that_was_moved_aside_when_the_process_was_killed_comes_back(self):
        old = files._beside(self.run / "export", "old")
        old.mkdir()
        (old / "saved_model.pb").write_text("")
        mend.mend(self.run)
        self.assertTrue((self.run / "export" / "saved_model.pb").exists())

    @parameterized.parameters("", "{", "[]", "{}", '{"total_s": null}', "\x00")
    def test_a_damaged_result(self, text):
        (self.run / "result.json").write_text(text)
        (line,) = mend.mend(self.run)
        self.assertRegex(
            line, "/result.json: cannot be read, renamed to result.damaged.json; the earlier time"
        )
        self.assertFalse((self.run / "result.json").exists())
        self.assertEqual((self.run / "result.damaged.json").read_text(), text)

    @parameterized.parameters(
        (b"run/env_steps,run/updates\n10,1\n1\x00,5\n20,2\n", 1, [10, 20]),
        (b"run/env_steps,run/updates\n10,1\nx,y\n\xff\xfe,3\n20\n20,2\n", 3, [10, 20]),
        (b"run/env_steps,run/updates\n10,1\n20,", 0, [10]),  # cut off, as by a kill
        (b"", 0, []),
    )
    def test_damaged_lines_of_metrics(self, content, lost, expected):
        path = self.run / "metrics.csv"
        path.write_bytes(content)
        lines = mend.mend(self.run)
        self.assertEqual(len(lines), 1 if lost else 0)
        if lost:
            self.assertEqual(lines[0], f"{path}: {lost} damaged line{'s' * (lost > 1)} dropped")
        csv_file.CsvFile(path, keep_env_steps=100).close()
        self.assertEqual([row["run/env_steps"] for row in csv_file.read(path)], expected)

    def test_damaged_lines_of_episodes(self):
        path = self.run / episode_file.NAME
        rows = [
            "10,1.5,7,0.250,0,0",
            "2\0,1,1,1,0,0",
            "²,1,1,1,0,0",
            "20,-2,9,1.000,1,3",
            "30,1,4,2.0",
        ]
        path.write_text("\n".join([",".join(episode_file.COLUMNS), *rows]))
        self.assertEqual(mend.mend(self.run), [f"{path}: 2 damaged lines dropped"])
        episode_file.start(path, ["is_success"], keep_env_steps=15)
        self.assertEqual(
            path.read_text().splitlines(),
            [",".join([*episode_file.COLUMNS, "is_success"]), "10,1.5,7,0.25,0,0,"],
        )

    @parameterized.parameters(b"\x00\xff\x13", b"10,1\n20,2\n", b"run/updates\n1\n")
    def test_metrics_without_columns(self, content):
        (self.run / "metrics.csv").write_bytes(content)
        (line,) = mend.mend(self.run)
        self.assertRegex(
            line,
            "/metrics.csv: cannot be read, renamed to metrics.damaged.csv; a new file is started",
        )
        self.assertEqual((self.run / "metrics.damaged.csv").read_bytes(), content)

    def test_a_damaged_checkpoint_is_not_complete_any_more(self):
        older, newer = self.checkpoint(10), self.checkpoint(20)
        (newer / "learner").write_bytes(b"abd")
        self.assertEqual(
            mend.mend(self.run), [f"skipping checkpoint {newer}: learner fails its checksum"]
        )
        self.assertIsNone(checkpoint_files.problem(older))
        self.assertEqual(checkpoint_files.problem(newer), "it is damaged")

    def test_who_may_start_over(self):
        self.assertTrue(mend.may_start_over(self.run))
        (self.checkpoints / "000000000010").mkdir()  # its first checkpoint was cut off
        self.assertTrue(mend.may_start_over(self.run))
        folder = self.checkpoint(20, b"abc")
        (folder / "learner").write_bytes(b"abd")
        mend.mend(self.run)
        self.assertFalse(mend.may_start_over(self.run))

    @parameterized.parameters("result.json", "checkpoints/policy.npz")
    def test_a_finished_run_does_not_start_over(self, name):
        (self.run / name).write_text("{}")
        self.assertFalse(mend.may_start_over(self.run))


class ReplacingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def test_a_failed_write_leaves_what_was_there(self):
        for path in (self.folder / "file", self.folder / "folder"):
            for content in ("old", "new"):
                try:
                    with files.replacing(path) as scratch:
                        if path.name == "folder":
                            scratch.mkdir()
                            (scratch / "a").write_text(content)
                        else:
                            scratch.write_text(content)
                        if content == "new":
                            raise OSError("disk full")
                except OSError:
                    pass
            found = path / "a" if path.is_dir() else path
            self.assertEqual(found.read_text(), "old")
        self.assertLen(list(self.folder.iterdir()), 2)

    def test_a_folder_takes_the_place_of_another(self):
        path = self.folder / "export"
        for content in ("old", "new"):
            with files.replacing(path) as scratch:
                scratch.mkdir()
                (scratch / content).write_text("")
        self.assertEqual([p.name for p in path.iterdir()], ["new"])
        self.assertEqual(list(self.folder.iterdir()), [path])


if __name__ == "__main__":
    absltest.main()
