"""CONTRIBUTING.md shows code that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RELU = ROOT / "packages" / "tricycle-nn" / "src" / "tricycle_nn" / "relu.py"


def code_lines(text):
    """The lines of some Python, without comments, indentation and empty lines."""
    lines = (re.sub(r"  # .*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def test_the_recipe_for_a_fused_operation_is_what_relu_squared_looks_like():
    recipe = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("## Add a fused operation")[1]
    blocks = re.findall(r"```python\n(.*?)```", recipe.split("## Tests")[0], re.DOTALL)
    assert len(blocks) == 2
    written = code_lines(RELU.read_text("utf-8").replace("x_array", "array"))
    assert [line for block in blocks for line in code_lines(block) if line not in written] == []
