"""Lets tests import comparing.py and shard_folders.py, which lie beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
