"""`python -m tfrl COMMAND`, the same as the console script."""

import sys

from tfrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
