"""Lets the tests import processors.py and check_kernels.py, which lie beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
