"""Writes the policy of a run as a SavedModel: `python launchers/export.py`, the same as `tfrl export`."""

import sys

from tfrl import cli

if __name__ == "__main__":
    sys.exit(cli.launch("export", sys.argv[1:]))
