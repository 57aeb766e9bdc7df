"""`python -m clkd` is `clkd`."""

import atexit
import os
import sys


def _leave_out_the_current_directory() -> None:
    """`-m` puts it first, where a stray torch.py would be taken for torch."""
    try:
        here = os.getcwd()
    except OSError:
        return
    if not sys.flags.safe_path and sys.path[:1] == [here]:
        del sys.path[0]


_leave_out_the_current_directory()
from clkd.cli.main import main  # noqa: E402  # after that

code = main()
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    # Seen now and then after several processes trained: the interpreter's end destroys one of torch's threads while it
    # still runs, and a finished run aborts. So the process ends here, once all that has to be written is.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
