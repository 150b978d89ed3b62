"""The page about many machines quotes the script that computed its table."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_table_of_the_page_is_what_the_script_prints():
    words = [sys.executable, ROOT / "scripts" / "many_gpus.py"]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    page = ROOT / "packages" / "tricycle-gpt" / "docs" / "many_machines.md"
    assert printed in page.read_text(encoding="utf-8")
