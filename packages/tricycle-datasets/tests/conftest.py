"""Lets tests import shard_folders.py, which lies beside them and is also run as a program."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
