"""The relay under its old name, for launchers of an earlier bgd (R7)."""

import sys

from bgd.launcher.cluster.relay import main

if __name__ == "__main__":
    sys.exit(main())
