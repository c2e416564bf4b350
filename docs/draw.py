"""Draws the way of the data through a run, `docs/images/data.svg`, from the tables below.

    python docs/draw.py            # writes the picture
    python docs/draw.py --check    # exit code 1 if it is behind

A test holds that every file in the tables exists and that the picture is up to date.
"""

from __future__ import annotations

import io
import pathlib
import sys
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

PICTURE = pathlib.Path(__file__).resolve().parent / "images" / "data.svg"
WIDTH, HEIGHT = 2.7, 1.0  # of a box


class Box(NamedTuple):
    """A part of a run: place of its centre, title, one line of text, and files or folders in `tfrl/`."""

    x: float
    y: float
    title: str
    text: str
    paths: tuple[str, ...]
    colour: str


class Way(NamedTuple):
    """Data on its way from one box to another: label, the shift of the label, and the curve of the line."""

    start: str
    end: str
    label: str
    shift: tuple[float, float] = (0.0, 0.22)
    curve: float = 0.0


ACTING, STORAGE, LEARNING, ALGORITHM = "#dbe9f6", "#fdeacc", "#dff0d8", "#f3dcea"
BOXES = {
    "env": Box(0, 1, "environments", "B rows, one step", ("envs/vector.py",), ACTING),
    "actor": Box(4, 1, "actor", "one vector step at a time", ("runtime/acting/actor.py",), ACTING),
    "writer": Box(
        8, 1, "writer", "n-step sums, unrolls", ("replay/nstep.py", "replay/sequences.py"), STORAGE
    ),
    "store": Box(
        12, 1, "replay or queue", "beside the learner, or Reverb",
        ("replay/learner_replay.py", "replay/local_queue.py"), STORAGE,
    ),
    "source": Box(
        16, 1, "source", "as much as inserts allow", ("runtime/learning/sources.py",), LEARNING
    ),
    "engine": Box(
        4, 3.2, "engine: Policy.step", "function or LiteRT", ("runtime/acting/inference.py",),
        ALGORITHM,
    ),
    "publish": Box(
        12, 3.2, "weights and facts", "directly, or through Reverb",
        ("runtime/storage/publish.py",), STORAGE,
    ),
    "loop": Box(
        16, 3.2, "learner loop", "many updates, one call", ("runtime/learning/learner.py",),
        LEARNING,
    ),
    "checkpoint": Box(
        20, 3.2, "checkpoint", "learner, replay, counters", ("runtime/storage/checkpoint.py",),
        STORAGE,
    ),
    "export": Box(
        4, 5.4, "export", "SavedModel, tfrl.load", ("runtime/serving/export.py",), STORAGE
    ),
    "evaluator": Box(
        8, 5.4, "evaluator", "scores, keeps the best", ("runtime/acting/evaluator.py",), ACTING
    ),
    "update": Box(
        16, 5.4, "Learner.update", "loss, gradient, metrics", ("algos", "losses"), ALGORITHM
    ),
    "apply": Box(
        20, 5.4, "apply.minimise", "sum over replicas, clip, step", ("optim/apply.py",), ALGORITHM
    ),
}  # fmt: skip
WAYS = (
    Way("env", "actor", "VectorStep:\nobs, reward [B]", (0, 0.62), -0.25),
    Way("actor", "env", "action [B]", (0, -0.5), -0.25),
    Way("actor", "engine", "obs [B, ...],\nstate, knobs, noise", (-1.25, 0), -0.25),
    Way("engine", "actor", "PolicyStep:\naction, extras", (1.0, 0), -0.25),
    Way("actor", "writer", "steps\n[B, ...]", (0, 0.25)),
    Way("writer", "store", "items:\npacked rows", (0, 0.25)),
    Way("store", "source", "samples", (0, 0.44), -0.2),
    Way("source", "store", "priorities", (0, -0.48), -0.2),
    Way("source", "loop", "chunk of\nbatches", (-0.85, 0), -0.25),
    Way("loop", "source", "priorities\nby key", (0.85, 0), -0.25),
    Way("loop", "update", "batch [b, ...] or\n[T, b, ...]", (-1.1, 0), -0.25),
    Way("update", "loop", "metrics,\npriorities", (0.85, 0), -0.25),
    Way("update", "apply", "tape, loss", (0, 0.2)),
    Way("loop", "publish", "weights,\nfacts", (0, 0.25)),
    Way("publish", "engine", "weights for the policy, facts for knobs and environments", (0, 0.2)),
    Way("publish", "evaluator", "weights", (0.3, 0.25)),
    Way("evaluator", "export", "best\nweights", (0, 0.25)),
    Way("loop", "checkpoint", "variables", (0, 0.2)),
)


def figure() -> pyplot.Figure:
    """The picture."""
    settings = {"svg.hashsalt": "tfrl", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        fig, axes = pyplot.subplots(figsize=(15.0, 5.2))
        axes.set_axis_off()
        axes.set_xlim(-1.6, 21.6)
        axes.set_ylim(0.2, 6.1)
        patches = {}
        for name, box in BOXES.items():
            corner = (box.x - WIDTH / 2, box.y - HEIGHT / 2)
            style = "round,pad=0.04,rounding_size=0.12"
            patch = FancyBboxPatch(corner, WIDTH, HEIGHT, style, fc=box.colour, ec="#555555")
            patches[name] = axes.add_patch(patch)
            axes.text(box.x, box.y + 0.28, box.title, ha="center", va="center", weight="bold")
            axes.text(box.x, box.y + 0.03, box.text, ha="center", va="center", size=8)
            paths = "\n".join(box.paths)
            low = -0.26 if len(box.paths) == 1 else -0.3
            axes.text(
                box.x, box.y + low, paths, ha="center", va="center", size=6.5, family="monospace"
            )
        for way in WAYS:
            start, end = BOXES[way.start], BOXES[way.end]
            line = FancyArrowPatch(
                (start.x, start.y), (end.x, end.y), arrowstyle="-|>", mutation_scale=11, ec="#333333", fc="#333333",
                patchA=patches[way.start], patchB=patches[way.end], connectionstyle=f"arc3,rad={way.curve}",
            )  # fmt: skip
            axes.add_patch(line)
            middle = ((start.x + end.x) / 2 + way.shift[0], (start.y + end.y) / 2 + way.shift[1])
            axes.text(*middle, way.label, ha="center", va="center", size=7.5, color="#333333")
        fig.tight_layout(pad=0.2)
    return fig


def svg() -> str:
    """The picture as SVG; the same text for the same tables and the same matplotlib."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "tfrl", "svg.fonttype": "none", "font.size": 9}):
        fig = figure()
        fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(fig)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def main(argv: list[str]) -> int:
    """Exit code: 0, or 1 if `--check` found the picture behind."""
    new = svg()
    behind = not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != new
    if behind and "--check" not in argv:
        PICTURE.write_text(new, encoding="utf-8")
    print(f"{PICTURE.name}: {'behind' if behind else 'up to date'}")
    return 1 if behind and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
