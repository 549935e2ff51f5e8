"""Job of a guarded process whose module is slow to import."""

import os
import time

from tests.guarded import run

__all__ = ["run"]

time.sleep(float(os.environ["SLOW_IMPORT"]))
