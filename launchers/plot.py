"""Draws learning curves of run folders: `python launchers/plot.py`, the same as `tfrl plot`."""

import sys

from tfrl import cli

if __name__ == "__main__":
    sys.exit(cli.launch("plot", sys.argv[1:]))
