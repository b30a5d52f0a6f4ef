"""``python -m lmexp`` is the same program as ``lmexp``."""

import sys

from lmexp.cli import main

sys.exit(main())
