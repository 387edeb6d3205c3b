"""`python -m fast_electra`: the command line without an installed script."""

import sys

from fast_electra.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
