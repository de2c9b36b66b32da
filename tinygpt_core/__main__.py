"""`python3 -m tinygpt_core` is the command `tinygpt`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
