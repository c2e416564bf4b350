"""Writes what the documentation takes from the code and from measured runs.

    python docs/generate.py            # rewrites the pages and the headers of configs
    python docs/generate.py --check    # exit code 1 and the names of the files that are behind

A table stands between `<!-- generated: KIND NAME -->` and `<!-- end -->`. KIND NAME is one of:

- `settings ALGO` or `settings SWITCH` (its Config), `settings SECTION` (job or a part of it), `resumable all`;
- `algorithms README`, `algorithms index`: from `ABOUT` and the docstring of each algorithm;
- `metrics ALGO` (those that its file and the shared functions it calls name), `metrics all`;
- `results ALGO`: the runs in `benchmarks/runs/ALGO/CONFIG/`;
- `speed all`, `parts all`: the newest file of each workload in `benchmarks/results/`, and tfrl's time by part in them;
- `script FOLDER/SCRIPT[:FUNCTION]`: a table that a script of `benchmarks/` makes of its runs;
- `names all`: settings in other libraries, `tfrl/config/foreign.py`;
- `api NAME`: what is public in a module, from its docstrings.

An algorithm without a page gets one from its module, `docs/algorithms/ALGO.md`. The header of
`configs/ALGO/CONFIG.flags` gets its lines `# seeds:`, `# score:`, `# env steps:` and `# wall time:` from the same runs.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import re
import statistics
import sys
import types
import typing
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfrl.benchmark.workloads import FIGURES, RIVALS  # noqa: E402
from tfrl.config import flags, foreign, switches  # noqa: E402
from tfrl.config.resolve import may_change  # noqa: E402
from tfrl.job import algorithm, algorithms  # noqa: E402
from tfrl.logs.metrics import HISTOGRAMS, METRICS, PATTERNS  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
RUNS = HERE.parent / "benchmarks" / "runs"
SPEED = HERE.parent / "benchmarks" / "results"
CONFIGS = HERE.parent / "configs"
_BLOCK = re.compile(r"(<!-- generated: (\w+) ([\w.:/]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings(name: str) -> str:
    """The settings of an algorithm or of a section of a job, as a Markdown table."""
    if name in algorithms():
        return flags.settings_table(algorithm(name).Config)
    if name in switches.names():
        return flags.settings_table(switches.find(name).Config)
    section = {section.key: section for section in flags.job_sections(None)}[name]
    head, rule, *rows = flags.settings_table(section.cls).splitlines()
    kept = [row for row in rows if row.split("`")[1] in section.names]
    return "\n".join([head, rule, *kept]) + "\n"


def sentence(name: str) -> str:
    """The description of an algorithm: the first line of its module's docstring without the name."""
    first = (algorithm(name).__doc__ or "").strip().splitlines()[0]
    return first.partition(": ")[2].rstrip(".") or first


def table_of_algorithms(where: str) -> str:
    """All algorithms by family, as a Markdown table.

    Args:
      where: 'README' (with options) or 'index' (with the pages of the families).
    """
    if where == "README":
        rows = ["| algorithm | what it is | options |", "| --- | --- | --- |"]
    else:
        rows = ["| page | algorithm | page of the family |", "| --- | --- | --- |"]
    abouts = {name: algorithm(name).ABOUT for name in algorithms()}
    for name in sorted(abouts, key=lambda name: (abouts[name].family, name)):
        about = abouts[name]
        if where == "README":
            link = f"[{about.title}](docs/algorithms/{name}.md)"
            rows.append(f"| {link} | {sentence(name)} | {about.options} |")
        else:
            family = f"[{about.family}.md]({about.family}.md)" if about.family else ""
            link = f"[algorithms/{name}.md](algorithms/{name}.md)"
            rows.append(f"| {link} | {about.title}: {sentence(name)} | {family} |")
    return "\n".join(rows) + "\n"


def new_page(name: str) -> str:
    """The page of an algorithm that has none yet, from its module; its tables are filled by `render`."""
    about, text = algorithm(name).ABOUT, inspect.getdoc(algorithm(name)) or ""
    family = f" [{about.family}.md](../{about.family}.md) describes what the family shares."
    parts = [
        f"# {about.title}",
        f"`--algo={name}`, implemented in [`tfrl/algos/{name}.py`](../../tfrl/algos/{name}.py)."
        + (family if about.family else ""),
        text.partition("\n")[2].strip() or text,
    ]
    for title, kind in (("Settings", "settings"), ("Metrics", "metrics"), ("Results", "results")):
        parts.append(f"## {title}\n\n<!-- generated: {kind} {name} -->\n<!-- end -->")
    return "\n\n".join(parts) + "\n"


def resumable(name: str) -> str:
    """The settings that a resumed run may change, as a Markdown table."""
    del name
    rows = ["| settings | of |", "| --- | --- |"]
    for section in flags.job_sections(None):
        found = [n for n in section.names if may_change(section.key, section.cls, n)]
        if found:
            rows.append(f"| {', '.join(f'`{n}`' for n in found)} | every run |")
    owners: dict[str, list[str]] = {}
    for algo in algorithms():
        config = algorithm(algo).Config
        names = [f.name for f in dataclasses.fields(config)]
        found = ", ".join(f"`{n}`" for n in names if may_change("config", config, n))
        owners.setdefault(found, []).append(algo)
    rows += [f"| {found} | {', '.join(algos)} |" for found, algos in owners.items()]
    return "\n".join(rows) + "\n"


def metrics(name: str) -> str:
    """All metrics, or those that the file of an algorithm names, as a Markdown table."""
    table = {**METRICS, **PATTERNS, **HISTOGRAMS}
    names = list(table)
    if name != "all":
        source = _source(algorithm(name))
        names = [metric for metric in names if f'"{metric}"' in source]
    rows = [f"| `{n}` | {table[n].unit} | {table[n].meaning} |" for n in names]
    return "\n".join(["| metric | unit | meaning |", "| --- | --- | --- |", *rows]) + "\n"


def _source(module: types.ModuleType) -> str:
    """The text of an algorithm's file and of all functions and classes of `algos/parts` that it uses, at any depth."""
    texts, waiting, seen = [], [(module, inspect.getsource(module))], set()
    while waiting:
        home, text = waiting.pop()
        texts.append(text)
        for path in re.findall(r"\b\w+(?:\.\w+)?", text):
            first, _, second = path.partition(".")
            what = getattr(home, first, None)
            if inspect.ismodule(what):
                what = getattr(what, second, None)
            place = getattr(what, "__module__", None) or ""
            if place.startswith("tfrl.algos.parts.") and what not in seen:
                if inspect.isfunction(what) or inspect.isclass(what):
                    seen.add(what)
                    waiting.append((sys.modules[place], inspect.getsource(what)))
    return "\n".join(texts)


def runs(algo: str, config: str) -> list[dict]:
    """`result.json` of every run of a config, by seed."""
    paths = (RUNS / algo / config).glob("*/result.json")
    return sorted((json.loads(p.read_text()) for p in paths), key=lambda result: result["seed"])


def results(algo: str) -> str:
    """One row a config: greedy returns of the exported policies over seeds."""
    rows = ["| config | seeds | median | lowest | highest | env steps | training, s |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    for folder in sorted((RUNS / algo).glob("*")):
        found = runs(algo, folder.name)
        scores = [result["return_mean"] for result in found]
        rows.append(
            f"| `configs/{algo}/{folder.name}.flags` | {_seeds(found)} "
            f"| {_score(statistics.median(scores))} | {_score(min(scores))} | {_score(max(scores))} "
            f"| {found[0]['env_steps']:,} | {_median(found, 'train_s'):.0f} |"
        )
    return "\n".join(rows) + "\n"


def _comparisons() -> list[tuple[str, dict]]:
    """Name and newest comparison of each workload, by name."""
    files = sorted(SPEED.glob("*.json"), key=lambda path: path.stem.split("-")[-2:])
    found = [json.loads(path.read_text()) for path in files]
    return sorted({comparison["workload"]: comparison for comparison in found}.items())


def parts(name: str) -> str:
    """tfrl's time by part in the newest comparison of each workload."""
    del name
    names = ("env", "act", "write", "sample", "learn", "rest")
    rows = [f"| workload | us per | {' | '.join(names)} |", f"| --- | --- |{' --- |' * len(names)}"]
    for workload, comparison in _comparisons():
        unit = "update" if comparison["figure"] == "updates_per_s" else "env step"
        found = comparison["parts_us"]
        cells = (f"{found[part]:,.1f}" if part in found else "" for part in names)
        rows.append(f"| `{workload}` | {unit} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def speed(name: str) -> str:
    """The newest comparison of each workload."""
    del name
    rows = ["| workload | what | figure | tfrl | rival | times better | target |"]
    rows.append("| --- | --- | --- | --- | --- | --- | --- |")
    for workload, comparison in _comparisons():
        figure, medians = comparison["figure"], comparison["medians"]
        title, form = FIGURES[figure].title, FIGURES[figure].form
        for rival in [who for who in medians if who != "tfrl"] or [None]:
            cells = ["", "", ""]
            if rival is not None:
                ratio = comparison["ratios"][rival].get(figure)
                target = comparison["targets"][rival].get(figure)
                cells = [
                    f"{RIVALS[rival]} {_cell(medians[rival][figure], form)}",
                    _cell(ratio, ".1f"),
                    "" if target is None else f"{target:g}",
                ]
            own = f"{title} | {_cell(medians['tfrl'][figure], form)}"
            rows.append(f"| `{workload}` | {comparison['what']} | {own} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def script(name: str) -> str:
    """A table that a script of `benchmarks/` makes of the runs that it has made: `FOLDER/SCRIPT[:FUNCTION]`."""
    path, _, function = name.partition(":")
    spec = importlib.util.spec_from_file_location(
        path.replace("/", "_"), HERE.parent / "benchmarks" / f"{path}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function or "table")() + "\n"


def names(name: str) -> str:
    """What stands for the names of other libraries here."""
    del name
    rows = ["| tfrl | Stable-Baselines3 | CleanRL | RLlib | |", "| --- | --- | --- | --- | --- |"]
    for row in foreign.SETTINGS:
        if row.settings:
            cells = [row.settings, *(there.split() for there in (row.sb3, row.cleanrl, row.rllib))]
            code = (", ".join(f"`{word}`" for word in words) for words in cells)
            rows.append(f"| {' | '.join(code)} | {row.note} |")
    return "\n".join(rows) + "\n"


def api(name: str) -> str:
    """The public functions and classes of a module with their signatures and docstrings."""
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", None)
    parts = []
    for key in listed or sorted(vars(module)):
        what = getattr(module, key)
        mine = getattr(what, "__module__", None) == name
        if key.startswith("_") or not callable(what) or not (listed or mine):
            continue
        if typing.get_origin(what) or not inspect.getdoc(what):
            continue
        parts.append(_entry(key, what))
        if inspect.isclass(what):
            for method, function in vars(what).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    parts.append(_entry(f"{key}.{method}", function))
    return "\n".join(parts)


def _entry(name: str, what: Any) -> str:
    try:
        # A default that is a function has an address, which changes.
        signature = re.sub(r"<function (\S+) at \w+>", r"\1", str(inspect.signature(what)))
    except ValueError:  # of an exception, which takes anything
        signature = ""
    text = inspect.getdoc(what) or ""
    return f"### {name}\n\n```python\n{name}{signature}\n```\n\n```text\n{text}\n```\n"


def _cell(value: float | None, form: str) -> str:
    return "not reached" if value is None else format(value, form)


def header(config: pathlib.Path, text: str) -> str:
    """The text of a config with the measured lines of its header written anew, if it has runs."""
    found = runs(config.parent.name, config.stem)
    if not found:
        return text
    scores = ", ".join(_score(result["return_mean"]) for result in found)
    seconds = f"{_median(found, 'train_s'):.0f} s of training"
    # A run that was killed and resumed does not know all of its time.
    whole = [result for result in found if result["total_s"] >= result["train_s"]]
    if whole:
        seconds += f", {_median(whole, 'total_s'):.0f} s in all"
    lines = {
        "seeds": _seeds(found),
        "score": f"{scores} (greedy, mean of {found[0]['episodes']} episodes for each seed)",
        "env steps": f"{found[0]['env_steps']:,}",
        "wall time": f"{seconds} (median), 2 CPU cores",
    }
    for key, value in lines.items():
        text = re.sub(rf"^# {key}:.*$", f"# {key}: {value}", text, flags=re.MULTILINE)
    return text


def _score(value: float) -> str:
    """A return with one decimal, or three where all that there is lies below 1."""
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.3f}"


def _seeds(found: list[dict]) -> str:
    return ", ".join(str(result["seed"]) for result in found)


def _median(found: list[dict], key: str) -> float:
    return statistics.median(result[key] for result in found)


def render(text: str) -> str:
    """A page with its tables written anew."""
    kinds = {
        "algorithms": table_of_algorithms, "settings": settings, "resumable": resumable,
        "metrics": metrics, "results": results, "speed": speed, "parts": parts, "names": names,
        "script": script,
        "api": api,
    }  # fmt: skip
    return _BLOCK.sub(lambda m: m[1] + "\n" + kinds[m[2]](m[3]) + "\n" + m[4], text)


def main(argv: list[str]) -> int:
    """Exit code: 0, or 1 if `--check` found pages that are behind."""
    behind = []
    for name in algorithms():
        path = HERE / "algorithms" / f"{name}.md"
        if not path.exists():
            behind.append(str(path.relative_to(HERE.parent)))
            if "--check" not in argv:
                path.write_text(new_page(name), encoding="utf-8")
    pages = [*sorted(HERE.rglob("*.md")), HERE.parent / "README.md"]
    for path in [*pages, *sorted(CONFIGS.rglob("*.flags"))]:
        text = path.read_text(encoding="utf-8")
        new = header(path, text) if path.suffix == ".flags" else render(text)
        if new != text:
            behind.append(str(path.relative_to(HERE.parent)))
            if "--check" not in argv:
                path.write_text(new, encoding="utf-8")
    print("\n".join(behind) or "all pages are up to date")
    return 1 if behind and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
