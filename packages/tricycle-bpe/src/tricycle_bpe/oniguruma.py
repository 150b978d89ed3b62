r"""What an expression of a tokenizer.json says, in words that `regex` and Oniguruma read alike.

Hugging Face's expressions are run by Oniguruma. Much that both libraries can read means another
thing to each: \w has ² there, \h is a hexadecimal digit, (?m) lets the dot take newlines, (?i:ss)
finds ß. So only what is known to mean the same is let through, and some more is written anew:

    \w \W \b \B   by the letters, marks, numbers and signs that Oniguruma counts as a word's
    \h \H         [0-9a-fA-F]
    \A \z \Z      the beginning of the text, its end, its end but for a newline
    \x{1F600}     the character itself
    {             where no count follows, the sign itself

All else is refused by its name. (One thing is not: where case is ignored Oniguruma takes İ and ı
for characters that are no i.) What `$`, `^` and counts mean stands in `dialects.py`.
"""

import re
from typing import NoReturn

WORD_IN_A_SET = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"
WORD = WORD_IN_A_SET + "²³¹¼½¾"  # outside of sets only
HEXADECIMAL = "0-9a-fA-F"
OUTSIDE_OF_SETS = {
    r"\w": f"[{WORD}]",
    r"\W": f"[^{WORD}]",
    r"\b": f"(?:(?<=[{WORD}])(?![{WORD}])|(?<![{WORD}])(?=[{WORD}]))",
    r"\B": f"(?:(?<=[{WORD}])(?=[{WORD}])|(?<![{WORD}])(?![{WORD}]))",
    r"\h": f"[{HEXADECIMAL}]",
    r"\H": f"[^{HEXADECIMAL}]",
    r"\A": r"(?<![\s\S])",
    r"\z": r"(?![\s\S])",
    r"\Z": r"(?=\n?(?![\s\S]))",
}
IN_SETS = {r"\w": WORD_IN_A_SET, r"\h": HEXADECIMAL}
SAME = {*[r"\s", r"\S", r"\d", r"\D", r"\n", r"\r", r"\t", r"\f", r"\v", r"\a"]}
NAMED_SETS = {"[:alpha:]": r"\p{Alphabetic}", "[:space:]": r"\s", "[:digit:]": r"\p{Nd}"}
# Classes and scripts that hold the same characters, but for those of Unicode 17, which is newer.
PROPERTY = re.compile(
    r"\\[pP]\{\^?(?:L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|C[cfo]?|Letter|Alphabetic"
    r"|Number|Mark|Punctuation|Symbol|Separator|Other|Uppercase_Letter|Titlecase_Letter"
    r"|Modifier_Letter|Decimal_Number|Punct|Alnum|Alpha|Upper|Digit|Space|Emoji|Common|Inherited"
    r"|Any|Han|Hiragana|Katakana|Hangul|Thai|Latin|Cyrillic|Greek|Arabic|Hebrew|Devanagari|Bengali"
    r"|Tamil|Telugu|Kannada|Malayalam|Sinhala|Gujarati|Gurmukhi|Oriya|Khmer|Lao|Myanmar|Tibetan"
    r"|Mongolian|Ethiopic|Armenian|Georgian|Bopomofo)\}",
    re.IGNORECASE,
)
CHARACTER = re.compile(r"\\(?:x\{([0-9a-fA-F]{1,6})\}|x([0-7][0-9a-fA-F])|u([0-9a-fA-F]{4}))")
SIGN = re.compile(r"\\[^a-zA-Z0-9]", re.DOTALL)
GROUP = re.compile(r"\((?:\?(?::|=|!|>|<=|<!|i:)|(?!\?|\*))")
COUNT = re.compile(r"\{(?:\d+(?:,\d*)?|,\d+)\}")
IN_A_SET = re.compile(r"\[:\^?\w+:\]|\\(?:[pPNx]\{[^}]*\}|x..|u....|[\s\S])|[\s\S]", re.DOTALL)
# Which characters a class with one case holds where case is ignored, the libraries do not agree on.
OF_ONE_CASE = re.compile(
    r"\\[pP]\{\^?(?:L[ult]|Greek|Upper|Uppercase_Letter|Titlecase_Letter)\}", re.IGNORECASE
)
# What is read otherwise by tiktoken, and by the `regex` package.
READ_OTHERWISE = {*OUTSIDE_OF_SETS, *IN_SETS} - {r"\A", r"\z"}
TWO_THAT_ARE_ONE = ("ss", "st", "ff", "fi", "fl")  # ß ﬆ ﬀ ﬁ ﬂ, to Oniguruma


def in_words_of_both(expression: str, atoms: list[str]) -> list[str]:
    """Write the atoms of an expression anew: its characters, escapes and sets.

    raises  ValueError for what means another thing to Oniguruma, or may
    """
    out: list[str] = []
    folds = [expression.startswith("(?i)")]  # for each open group, whether case is ignored in it
    before = ""
    i = 0
    for atom in atoms:
        if atom == "(":
            group = GROUP.match(expression, i)
            if group is None and not (i == 0 and folds[0]):
                _refuse(expression, expression[i : i + 4])
            folds.append(folds[-1] or (group is not None and group.group() == "(?i:"))
        elif atom == ")" and len(folds) > 1:
            folds.pop()
        said = _said(atom)
        if folds[-1] and _has_case(atom):
            _refuse(expression, f"{said} in any case")
        if folds[-1] and (before + said).lower() in TWO_THAT_ARE_ONE:
            _refuse(expression, f"{before + said} in any case")
        if atom not in ("(", "?", ":", ")"):
            before = said
        if atom.startswith("[") and len(atom) > 1:
            out.append(_set(expression, atom, folds[-1]))
        elif atom.startswith("\\"):
            out.append(_escape(expression, atom, OUTSIDE_OF_SETS, folds[-1]))
        elif atom == "{" and COUNT.match(expression, i) is None:
            out.append(r"\{")
        else:
            out.append(atom)
        i += len(atom)
    return out


def _set(expression: str, atom: str, folds: bool) -> str:
    """Write a set anew, member by member."""
    if not atom.endswith("]"):
        return atom  # it has no end, which is an error when it is compiled
    inside = atom[1:-1]
    members = []
    for member in IN_A_SET.findall(inside):
        if len(member) > 1 and member.startswith("["):
            if member not in NAMED_SETS:
                _refuse(expression, member)
            members.append(NAMED_SETS[member])
        elif member.startswith("\\"):
            members.append(_escape(expression, member, IN_SETS, folds))
        else:
            members.append(member)
    return f"[{''.join(members)}]"


def _escape(expression: str, escape: str, anew: dict[str, str], folds: bool) -> str:
    """Write an escape anew, as `anew` says or as it is."""
    if escape in anew:
        return anew[escape]
    character = CHARACTER.fullmatch(escape)
    if character is not None:
        number = int(next(digits for digits in character.groups() if digits), 16)
        if (
            number < 0x110000
            and not 0xD800 <= number < 0xE000
            and not (folds and _has_case(chr(number)))
        ):
            return re.escape(chr(number))
    elif PROPERTY.fullmatch(escape) and not (folds and OF_ONE_CASE.fullmatch(escape)):
        is_not = (escape[1] == "P") != ("^" in escape)
        return ("\\P" if is_not else "\\p") + escape[2:].replace("^", "")
    elif escape in SAME or SIGN.fullmatch(escape):
        return escape
    return _refuse(expression, escape)


def _said(atom: str) -> str:
    """The character that an escape stands for; other atoms as they are."""
    found = CHARACTER.fullmatch(atom)
    if found is None:
        return atom
    number = int(next(digits for digits in found.groups() if digits), 16)
    return chr(min(number, 0x10FFFF))


def _has_case(text: str) -> bool:
    """Whether a character beyond ASCII, or one of a range of such, has an upper or a lower case."""
    others = [c for c in text if not c.isascii()]
    changed = any((c.lower(), c.upper(), c.casefold()) != (c, c, c) for c in others)
    return changed or (bool(others) and "-" in text)


def read_otherwise(atoms: list[str]) -> str:
    """The first of the escapes that Oniguruma and tiktoken read each in its own way; "" if none."""
    for atom in atoms:
        inside = IN_A_SET.findall(atom[1:-1]) if atom.startswith("[") else [atom]
        for escape in inside:
            if escape in READ_OTHERWISE:
                return escape
    return ""


def _refuse(expression: str, what: str) -> NoReturn:
    raise ValueError(
        f"pattern {expression!r:.120} has {what!r:.40}, which is not known to mean the same here "
        "as to Hugging Face's libraries, and is refused: write it in other words"
    )
