"""The commands of tfrl: `tfrl run`, `tfrl evaluate`, ...; the launchers of a checkout call the same functions."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from tfrl import command

# Name -> module with `main(argv) -> exit code`, and what it does.
COMMANDS = {
    "run": ("tfrl.cli.run", "trains an agent, or resumes a run"),
    "evaluate": ("tfrl.cli.evaluate", "plays episodes with the policy of a run"),
    "export": ("tfrl.cli.export", "exports the policy of a run as a SavedModel"),
    "plot": ("tfrl.cli.plot", "draws learning curves of run folders"),
    "tune": ("tfrl.cli.tune", "searches for good settings with Optuna"),
    "check": ("tfrl.envs.check", "checks your own environment"),
    "benchmark": ("tfrl.cli.benchmark", "times tfrl, and compares it with other libraries"),
}


def main() -> int:
    """The console script `tfrl`; returns the exit code of the command, 2 where there is none of this name."""
    name, *argv = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        return launch(name, argv)
    asks = name in ("--help", "-h", "help")
    if not asks:
        from tfrl.settings import nearest

        print(f"error: {name!r}: no such command{nearest(name, COMMANDS)}", file=sys.stderr)
    print(usage(), file=sys.stdout if asks else sys.stderr)
    return 0 if asks else 2


def launch(name: str, argv: Sequence[str]) -> int:
    """Runs a command as a program; returns its exit code.

    Args:
      name: a key of `COMMANDS`.
      argv: its arguments, without its name.
    """
    # TensorFlow's start-up notices (oneDNN, absent GPU libraries) hide what a command has to say.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.append(os.getcwd())  # where a user's own environments and networks are
    module = importlib.import_module(COMMANDS[name][0])
    return command.run(module.main, list(argv))


def usage() -> str:
    """The text of `tfrl --help`."""
    lines = ["usage: tfrl COMMAND [...]; tfrl COMMAND --help lists its options", ""]
    return "\n".join([*lines, *(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())])
