"""Writes the tables of the documentation that come from the code: settings and metrics.

    python docs/generate.py            # rewrites the pages
    python docs/generate.py --check    # exit code 1 and the names of the pages that are behind

A table stands between `<!-- generated: KIND NAME -->` and `<!-- end -->`. KIND NAME is one of
`settings ALGO` (its Config), `settings SECTION` (job or a part of it), `metrics ALGO` (those that
its file names) and `metrics all`.
"""

from __future__ import annotations

import os
import pathlib
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfrl.config import flags  # noqa: E402
from tfrl.job import algorithm, algorithms  # noqa: E402
from tfrl.logs.metrics import METRICS  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
_BLOCK = re.compile(r"(<!-- generated: (\w+) ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings(name: str) -> str:
    """The settings of an algorithm or of a section of a job, as a Markdown table."""
    if name in algorithms():
        return flags.settings_table(algorithm(name).Config)
    section = {section.key: section for section in flags.job_sections(None)}[name]
    head, rule, *rows = flags.settings_table(section.cls).splitlines()
    kept = [row for row in rows if row.split("`")[1] in section.names]
    return "\n".join([head, rule, *kept]) + "\n"


def metrics(name: str) -> str:
    """All metrics, or those that the file of an algorithm names, as a Markdown table."""
    names = list(METRICS)
    if name != "all":
        source = pathlib.Path(algorithm(name).__file__).read_text(encoding="utf-8")
        names = [metric for metric in names if f'"{metric}"' in source]
    rows = [f"| `{n}` | {METRICS[n].unit} | {METRICS[n].meaning} |" for n in names]
    return "\n".join(["| metric | unit | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def render(text: str) -> str:
    """A page with its tables written anew."""
    kinds = {"settings": settings, "metrics": metrics}
    return _BLOCK.sub(lambda m: m[1] + "\n" + kinds[m[2]](m[3]) + "\n" + m[4], text)


def main(argv: list[str]) -> int:
    """Exit code: 0, or 1 if `--check` found pages that are behind."""
    behind = []
    for page in sorted(HERE.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if render(text) != text:
            behind.append(str(page.relative_to(HERE.parent)))
            if "--check" not in argv:
                page.write_text(render(text), encoding="utf-8")
    print("\n".join(behind) or "all pages are up to date")
    return 1 if behind and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
