"""What `print(model)` shows: the tree of modules, with how many numbers each of them learns.

    GPT                                          818,560  head is token_embedding.weight
      token_embedding      Embedding               8,320  weight (65, 128)
      blocks               4 × TransformerBlock  793,088
        attention_norm     LayerNorm                 256  weight (128,), bias (128,)

Modules of a list that look alike are shown once, with how many there are.  What is found a
second time (a tied weight) is not counted again: its line says where it was found first.
"""

from dataclasses import dataclass, field
from typing import Any

from tricycle_nn.parameter import Parameter, children, is_module


@dataclass
class Branch:
    """One module, or list of modules; equal branches are modules that look alike."""

    kind: str
    count: int = 0  # numbers learned, in here and below
    notes: list[str] = field(default_factory=list)
    below: list[tuple[str, "Branch"]] = field(default_factory=list)


def summary(model: Any) -> str:
    """The tree of a module as text, a line for each module in it."""
    branch = _branch(model, "", {id(model): "the whole"})
    name, branch.kind = branch.kind, ""
    lines = list(_lines(name, branch, 0))
    names, kinds, counts = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join(
        f"{name:<{names}}  {kind:<{kinds}}  {count:>{counts}}  {notes}".rstrip()
        for name, kind, count, notes in lines
    )


def _branch(parent: Any, path: str, first_path: dict[int, str]) -> Branch:
    """The tree below a module or list; `first_path` knows what was met before, by id."""
    branch = Branch(type(parent).__name__)
    for name, child in children(parent):
        if not (is_module(child) or isinstance(child, (Parameter, list, tuple, dict))):
            continue
        first = first_path.setdefault(id(child), path + name)
        if first != path + name:
            if is_module(child) or isinstance(child, Parameter):
                branch.notes.append(f"{name} is {first}")
        elif isinstance(child, Parameter):
            branch.notes.append(f"{name} {child.shape}")
            branch.count += child.size
        else:
            found = _branch(child, f"{path}{name}.", first_path)
            if is_module(child) or found.below or found.notes:
                branch.below.append((name, found))
                branch.count += found.count
    return branch if is_module(parent) else _folded(branch)


def _folded(branch: Branch) -> Branch:
    """A list whose modules all look alike, as one module that stands for all of them."""
    alike = [found for _, found in branch.below]
    if branch.notes or len(alike) < 2 or any(found != alike[0] for found in alike[1:]):
        return branch
    kind = f"{len(alike)} × {alike[0].kind}"
    return Branch(kind, branch.count, alike[0].notes, alike[0].below)


def _lines(name, branch, depth):
    """(indented name, kind, count, notes) for a branch and everything below it."""
    yield "  " * depth + name, branch.kind, f"{branch.count:,}", ", ".join(branch.notes)
    for child_name, found in branch.below:
        yield from _lines(child_name, found, depth + 1)
