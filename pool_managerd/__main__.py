"""python -m pool_managerd --config FILE"""

import sys

from contracts.service.daemon import run_daemon
from pool_managerd.services import open_service

if __name__ == "__main__":
    sys.exit(run_daemon("pool_managerd", open_service))
