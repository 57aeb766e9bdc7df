"""`python -m clkd` is `clkd`."""

import atexit
import os
import sys

from clkd.cli.main import main

code = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # Seen now and then after several processes trained: the interpreter's end destroys one of torch's threads while it
    # still runs, and a finished run aborts. So the process ends here, once all that has to be written is.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
