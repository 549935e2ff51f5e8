"""`python -m compare`."""

import signal
import sys

from compare.interrupts import interrupts
from compare.streams import occupy

if __name__ == "__main__":
    occupy()
    with interrupts():  # before the slow imports, in which a Ctrl-C would be lost
        from compare.cli.main import main

        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said: nothing is left to stop
        sys.exit(code)
