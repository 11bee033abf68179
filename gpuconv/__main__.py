"""`python -m gpuconv`: the command line."""

import sys

from gpuconv.cli import main

sys.exit(main())
