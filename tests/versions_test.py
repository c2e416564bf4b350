"""The two guards of the set-up: wrong packages at import, wrong Python in `make`."""

import importlib.metadata
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from unittest import mock

from absl.testing import absltest, parameterized

from tfrl import versions

ROOT = pathlib.Path(__file__).resolve().parent.parent


class TempDirTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))


class CheckTest(TempDirTestCase):
    def fake(self, **installed):
        """Puts a folder first on sys.path in which the named packages have other versions."""
        for name, version in installed.items():
            (self.folder / f"{name}-{version}.dist-info").mkdir()
        self.enter_context(mock.patch.object(sys, "path", [str(self.folder), *sys.path]))

    def test_the_tested_set_is_accepted(self):
        self.assertIsNone(versions.check())

    @parameterized.parameters(
        ("tensorflow", "2.16.1", "tensorflow==2.15.1"),
        ("tensorflow", "2.14.1", "tensorflow==2.15.1"),
        ("tensorflow", "3.15.0", "tensorflow==2.15.1"),
        ("dm_reverb", "0.13.0", "dm-reverb==0.14.0"),
        ("dm_reverb", "0.15.0rc1", "dm-reverb==0.14.0"),
        ("keras", "3.3.3", "keras==2.15.0"),
        ("numpy", "2.0.0", "numpy==1.26.4"),
        ("numpy", "10.1", "numpy==1.26.4"),
        ("protobuf", "5.29.1", "protobuf==4.25.9"),
        ("protobuf", "7.35.0", "protobuf==4.25.9"),
    )
    def test_a_wrong_version_is_refused(self, name, version, install):
        self.fake(**{name: version})
        with self.assertRaises(ImportError) as caught:
            versions.check()
        message = str(caught.exception)
        self.assertIn(f"{name.replace('_', '-')} ", message)
        self.assertIn(f"(installed: {version})", message)
        self.assertTrue(message.endswith(f'run `pip install "{install}"`.'), message)
        self.assertLen(message.splitlines(), 1)

    @parameterized.parameters(
        ("tensorflow", "2.15.0"),
        ("tensorflow", "2.15.0.post1"),
        ("numpy", "1.26.0"),
        ("numpy", "1.26.4+local"),
        ("protobuf", "4.23.4"),
    )
    def test_a_neighbour_of_the_tested_version_is_accepted(self, name, version):
        self.fake(**{name: version})
        self.assertIsNone(versions.check())

    def test_every_wrong_package_is_in_the_one_sentence(self):
        self.fake(numpy="2.1.0", protobuf="5.0.0")
        wanted = r'numpy.*2\.1\.0.*protobuf.*5\.0\.0.*"numpy==1\.26\.4" "protobuf==4\.25\.9"'
        with self.assertRaisesRegex(ImportError, wanted):
            versions.check()

    def test_a_missing_package_is_named(self):
        missing = importlib.metadata.PackageNotFoundError
        with mock.patch.object(sys, "path", []):
            with mock.patch.object(importlib.metadata, "version", side_effect=missing):
                with self.assertRaisesRegex(ImportError, r"dm-reverb 0\.14\.\* \(not installed\)"):
                    versions.check()

    def test_a_package_without_a_listed_folder_is_asked_of_importlib_metadata(self):
        table = {"tensorflow": "2.15.1", "keras": "2.15.0", "dm-reverb": "0.14.0"}
        table.update({"numpy": "1.26.4", "protobuf": "4.25.9"})
        with mock.patch.object(sys, "path", []):
            with mock.patch.object(importlib.metadata, "version", side_effect=table.get):
                self.assertIsNone(versions.check())
                table["keras"] = "3.0.0"
                with self.assertRaisesRegex(ImportError, r"keras 2\.15\.\* \(installed: 3\.0\.0\)"):
                    versions.check()

    def test_tensorflow_cpu_stands_in_for_tensorflow(self):
        table = {"tensorflow-cpu": "2.15.1", "keras": "2.15.0", "dm-reverb": "0.14.0"}
        table.update({"numpy": "1.26.4", "protobuf": "4.25.9"})

        def version(name):
            if name not in table:
                raise importlib.metadata.PackageNotFoundError(name)
            return table[name]

        with mock.patch.object(sys, "path", []):
            with mock.patch.object(importlib.metadata, "version", side_effect=version):
                self.assertIsNone(versions.check())

    @parameterized.parameters(((3, 9, 18),), ((3, 12, 1),))
    def test_another_python_is_refused(self, version):
        with mock.patch.object(sys, "version_info", (*version, "final", 0)):
            words = rf"Python {version[0]}\.{version[1]}: install Python 3\.11"
            with self.assertRaisesRegex(ImportError, words):
                versions.check()

    def test_it_is_quick_and_imports_nothing_heavy(self):
        seconds = []
        for _ in range(9):
            start = time.perf_counter()
            versions.check()
            seconds.append(time.perf_counter() - start)
        self.assertLess(statistics.median(seconds), 5e-3)
        code = (
            "import runpy, sys; runpy.run_path(sys.argv[1])['check'](); "
            "print(sorted({'tensorflow', 'numpy', 'importlib.metadata'} & set(sys.modules)))"
        )
        command = [sys.executable, "-c", code, versions.__file__]
        self.assertEqual(subprocess.check_output(command, text=True).strip(), "[]")


class MakefileTest(TempDirTestCase):
    def make(self, script):
        """`make install` into a folder of its own, with a PYTHON that is this script."""
        self.venv = self.folder / "venv"
        python = self.folder / "python"
        python.write_text(textwrap.dedent(script))
        python.chmod(0o755)
        env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        command = ["make", "install", f"VENV={self.venv}", f"PYTHON={python}"]
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
        )

    def assert_refused(self, done, found):
        self.assertNotEqual(done.returncode, 0)
        sentences = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        self.assertLen(sentences, 1)
        self.assertIn(found, sentences[0])
        self.assertIn("install Python 3.11", sentences[0])
        self.assertFalse(self.venv.exists())

    def test_another_python_is_refused_in_one_sentence(self):
        done = self.make(
            f"""\
            #!{sys.executable}
            import sys
            sys.version_info = (3, 12, 1, "final", 0)
            exec(sys.argv[sys.argv.index("-c") + 1])
            """
        )
        self.assert_refused(done, "is Python 3.12")

    def test_a_shim_that_does_not_run_is_refused_in_one_sentence(self):
        done = self.make("#!/bin/sh\necho 'version not installed' >&2\nexit 127\n")
        self.assert_refused(done, "is not a Python that runs")


class LockTest(parameterized.TestCase):
    @parameterized.parameters("py310", "py311")
    def test_the_locks_of_one_python_agree_and_hold_nothing_but_pins(self, python):
        pins = {}
        for suffix in ("", "-all", "-gpu"):
            lines = (ROOT / "requirements" / f"{python}{suffix}.txt").read_text().splitlines()
            body = [line for line in lines if not line.startswith("#")]
            self.assertNotEmpty(body)
            for pin, digest in zip(body[::2], body[1::2], strict=True):
                self.assertRegex(pin, r"^[a-z0-9-]+==[\w.+!]+ \\$")
                self.assertRegex(digest, r"^    --hash=sha256:[0-9a-f]{64}$")
            pins[suffix] = set(zip(body[::2], body[1::2], strict=True))
        self.assertLess(pins[""], pins["-all"])
        self.assertLess(pins["-all"], pins["-gpu"])
        names = {pin.split("==")[0] for pin, _ in pins["-gpu"]}
        self.assertNotIn("torch", names)

    @parameterized.parameters("py310", "py311")
    def test_what_the_guard_tells_the_user_to_install_is_what_is_locked(self, python):
        lock = (ROOT / "requirements" / f"{python}.txt").read_text()
        for _, _, install in versions._REQUIRED.values():
            self.assertIn(f"\n{install} ", lock)


if __name__ == "__main__":
    absltest.main()
