"""The relay by the name by which launchers of an earlier bgd start it, as long as they run (R7)."""

import sys

from bgd.launcher.cluster.relay import main

if __name__ == "__main__":
    sys.exit(main())
