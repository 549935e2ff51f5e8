"""The entry point of `python -m compare`."""

import signal
import sys

from compare.interrupts import interrupts
from compare.standard_streams import reserve_descriptors

if __name__ == "__main__":
    reserve_descriptors()
    with interrupts():  # set before the slow imports, in which a Ctrl-C would be lost
        from compare.cli.main import main

        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done: there is nothing to stop
        sys.exit(code)
