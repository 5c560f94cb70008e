"""python -m orchestratord --config FILE"""

import sys

from contracts.service.daemon import run_daemon
from orchestratord.services import open_service

if __name__ == "__main__":
    sys.exit(run_daemon("orchestratord", open_service))
