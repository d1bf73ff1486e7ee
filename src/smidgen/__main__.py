"""`python -m smidgen` is the `smidgen` command."""

import sys

from smidgen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
