"""`python -m ungated`, as torchrun starts it: the same as the command `ungated`."""

import sys

from ungated.lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
