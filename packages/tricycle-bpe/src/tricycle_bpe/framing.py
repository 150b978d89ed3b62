"""What a published tokeniser puts around a text: the token that begins one, or ends one.

A tokenizer.json says so in its `post_processor`. `Tokeniser.encode` never puts any; who wants them
asks for `Tokeniser.around`, two rows of ids:

    TemplateProcessing                    <s> A </s>, where A is the text
    BertProcessing, RobertaProcessing     one token before, one after
    ByteLevel                             nothing
    Sequence                              one around the other
"""

from typing import Any

Around = tuple[tuple[int, ...], tuple[int, ...]]  # ids before a text, ids after it
DEEPEST = 8


def around_in(node: Any, depth: int = 0) -> Around:
    """The ids before and after a text, by a post-processor.

    raises  ValueError for a kind that is not known, by its name

    >>> around_in({"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]})
    ((1,), (2,))
    """
    kind = node.get("type") if isinstance(node, dict) else None
    if node is None or kind == "ByteLevel":
        return (), ()
    if kind == "Sequence" and isinstance(node.get("processors"), list) and depth < DEEPEST:
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        for each in node["processors"]:
            outer = around_in(each, depth + 1)
            before, after = (*outer[0], *before), (*after, *outer[1])
        return before, after
    try:
        if kind in ("BertProcessing", "RobertaProcessing"):
            return (_id(node["cls"][1]),), (_id(node["sep"][1]),)
        if kind == "TemplateProcessing":
            return _in_template(node["single"], node["special_tokens"])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"its `post_processor` {node!r:.80} is not as it should be") from error
    raise ValueError(
        f"its `post_processor` {kind!r:.40} is not known here; TemplateProcessing, "
        "BertProcessing, RobertaProcessing and ByteLevel are"
    )


def _in_template(single: list, tokens: dict) -> Around:
    """A template has one text in it, A, and special tokens before and after."""
    sides: list[list[int]] = [[]]
    for part in single:
        if "SpecialToken" in part:
            sides[-1] += [_id(i) for i in tokens[part["SpecialToken"]["id"]]["ids"]]
        else:
            if part["Sequence"]["id"] != "A" or len(sides) == 2:
                raise ValueError(f"its `post_processor` {single!r:.80} has another text than A")
            sides.append([])
    if len(sides) != 2:
        raise ValueError(f"its `post_processor` {single!r:.80} has no text in it")
    return tuple(sides[0]), tuple(sides[1])


def _id(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"its `post_processor` has {value!r:.40} for an id")
    return value
