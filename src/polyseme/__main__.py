"""`python -m polyseme`, where no script is installed."""

import sys

from polyseme.cli import main

if __name__ == "__main__":
    sys.exit(main())
