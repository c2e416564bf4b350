"""The documentation agrees with the code where that can be checked."""

from __future__ import annotations

import importlib.util
import pathlib
import re

from absl.testing import absltest

from tfrl.config import flags, switches
from tfrl.job import algorithm, algorithms
from tfrl.logs.metrics import METRICS
from tfrl.settings import field_types

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "WORKSPACE.md", *sorted((ROOT / "docs").rglob("*.md"))]

USERS = (
    "my_package/reinforce.py",
    "my_package/sarsa.py",
    "my_package/sticky_actions.py",
    "my_package/weight_decay.py",
)  # files of the user that pages write about


def _program(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class DocsTest(absltest.TestCase):
    def test_generated_tables_are_up_to_date(self):
        generate = _program("generate")
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            self.assertEqual(text, generate.render(text), f"{page}: run python docs/generate.py")

    def test_the_picture_shows_files_that_exist_and_is_up_to_date(self):
        draw = _program("draw")
        self.assertContainsSubset({end for way in draw.WAYS for end in way[:2]}, draw.BOXES)
        for box in draw.BOXES.values():
            for path in box.paths:
                self.assertTrue((ROOT / "tfrl" / path).exists(), f"{box.title}: {path}")
        picture = draw.PICTURE.read_text(encoding="utf-8")
        self.assertEqual(picture, draw.svg(), "run python docs/draw.py")

    def test_every_setting_and_metric_is_on_a_page(self):
        common = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
        for section in flags.job_sections(None):
            for name in section.names:
                self.assertIn(f"| `{name}` |", common)
        for name in algorithms():
            page = (ROOT / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")
            for setting in field_types(algorithm(name).Config):
                self.assertIn(f"| `{setting}` |", page)
        table = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
        for metric in METRICS:
            self.assertIn(f"| `{metric}` |", table)

    def test_links_lead_somewhere(self):
        for page in PAGES:
            for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
                path, _, anchor = link.partition("#")
                # The benchmarks page is written from measurements, which may not be there yet.
                if "://" in link or path.endswith("benchmarks.md"):
                    continue
                target = (page.parent / path).resolve() if path else page
                self.assertTrue(target.exists(), f"{page}: {link}")
                if anchor:
                    heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
                    self.assertIn(anchor, [head.lower().replace(" ", "-") for head in heads])

    def test_tests_and_files_that_a_page_names_exist(self):
        named = 0
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            for file, test in re.findall(r"([\w/]+_test\.py)::(\w+)", text):
                source = (ROOT / "tests" / file.removeprefix("tests/")).read_text(encoding="utf-8")
                self.assertIn(f"    def {test}(", source, f"{page}: {file}::{test}")
                named += 1
            places = [ROOT, ROOT / "tfrl", ROOT / "tests", page.parent]
            for path in re.findall(r"`([\w./]+/[\w.]+\.(?:py|flags|md))(?:::\w+)?`", text):
                found = any((place / path).exists() for place in places)
                self.assertTrue(found or path.startswith(USERS), f"{page}: {path}")
        self.assertGreater(named, 40)
        page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
        rows = [line for line in page.splitlines() if line.startswith("| ")]
        promises = [
            row for row in rows if row.count("|") == 3 and not row.startswith(("| you", "| ---"))
        ]
        for promise in promises:
            self.assertRegex(promise, r"_test\.py::", "a promise without a test")

    def test_flags_in_commands_exist(self):
        known = {"help", "flagfile", "algo", "with", "logdir"}
        for section in flags.job_sections(None):
            known.update(section.names)
        for name in algorithms():
            known.update(field_types(algorithm(name).Config))
        for name in switches.names():
            known.update(field_types(switches.find(name).Config))
        for launcher in ("evaluate", "export", "plot", "tune"):
            source = (ROOT / "tfrl" / "cli" / f"{launcher}.py").read_text(encoding="utf-8")
            known.update(re.findall(r"^    (\w+): .* = setting\(", source, re.M))
        known.add("name")  # stands for any
        known.update(f"no{name}" for name in set(known))
        for page in PAGES:
            if page.name == "benchmarks.md":  # commands of rivals are in it
                continue
            for name in re.findall(r"(?<![\w-])--(\w+)", page.read_text(encoding="utf-8")):
                self.assertIn(name, known, str(page))


if __name__ == "__main__":
    absltest.main()
