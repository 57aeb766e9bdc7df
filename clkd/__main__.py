"""`python -m clkd` is `clkd`."""

import sys

from clkd.cli.main import main

sys.exit(main())
