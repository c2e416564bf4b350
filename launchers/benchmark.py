"""Times tfrl, and its rivals in turn: `python launchers/benchmark.py`, the same as `tfrl benchmark`."""

import sys

from tfrl import cli

if __name__ == "__main__":
    sys.exit(cli.launch("benchmark", sys.argv[1:]))
