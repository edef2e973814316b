"""`python -m btc_assets` is the command `btc-assets`."""

import sys

from btc_assets.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
