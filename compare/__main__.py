"""`python -m compare`."""

import sys

from compare.interrupt import requests

if __name__ == "__main__":
    with requests():  # before the slow imports, in which a Ctrl-C would be lost
        from compare.cli import main

        code = main()
    sys.exit(code)
