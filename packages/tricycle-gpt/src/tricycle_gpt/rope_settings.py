"""Rotary positions in other programs' config.json, which tells of them in three ways.

    rope_theta         the base, 10000 if it is not said
    rope_scaling       a dictionary: rope_type (or type), and its numbers
    rope_parameters    both in one, in files of transformers 5, where it wins

A kind of scaling that is not known, or a number that it does not have, is a fault: a model would
open, and write something else than its makers meant.
"""

from typing import Any

from tricycle_gpt.family import setting

NUMBERS = {  # of each kind: those it needs, and those it may have beside them
    "default": ((), ()),
    "linear": (("factor",), ("original_max_position_embeddings",)),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        (),
    ),
}
ANY = ("rope_type", "type", "rope_theta")  # what all kinds may have


def _rope(theirs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The section that counts, and its name; an empty one where there is none."""
    old, new = (setting(theirs, name, dict, {}) for name in ("rope_scaling", "rope_parameters"))
    return ("rope_parameters", new) if new else ("rope_scaling", old)


def _kind(rope):
    return rope.get("rope_type") or rope.get("type") or "default"


def rope_faults(theirs: dict[str, Any]) -> list[str]:
    """What their rotary positions have that ours do not do.  ValueError for a section
    that is something else."""
    name, rope = _rope(theirs)
    faults = []
    if name == "rope_parameters":
        other = setting(theirs, "rope_scaling", dict, {})
        if any(rope.get(key) != value for key, value in other.items()):
            faults.append("rope_scaling and rope_parameters, which say different things")
    kind = _kind(rope)
    if not isinstance(kind, str) or kind not in NUMBERS:
        return [*faults, f"{name} of the kind {kind!r:.80} ({', '.join(NUMBERS)} are known)"]
    needed, possible = NUMBERS[kind]
    for key in needed:
        if not _is_number(rope.get(key)):
            faults.append(f"{name} {kind} whose {key} is {rope.get(key)!r:.80}, no number above 0")
    known = {*needed, *possible, *ANY}
    for key, value in rope.items():
        is_all = key == "partial_rotary_factor" and value == 1
        if key not in known and value is not None and not is_all:
            faults.append(f"{name} with {key:.80} {value!r:.80}")
    return faults


def _is_number(value):
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and 0 < value < 2**63


def rope_to_ours(theirs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of GPTConfig that their settings mean."""
    _, rope = _rope(theirs)
    theta = setting(theirs, "rope_theta", float, 10000.0)
    found = {"rotary_theta": setting(rope, "rope_theta", float, theta)}
    kind = _kind(rope)
    if kind != "default":
        found["rotary_factor"] = float(rope["factor"])
    if kind == "llama3":
        found |= {
            "rotary_trained_window": rope["original_max_position_embeddings"],
            "rotary_low_turns": float(rope["low_freq_factor"]),
            "rotary_high_turns": float(rope["high_freq_factor"]),
        }
    return found


def rope_to_theirs(config: Any) -> dict[str, Any]:
    """Their settings for a GPTConfig; both old and new versions of transformers read them."""
    found: dict[str, Any] = {"rope_theta": config.rotary_theta}
    scaling = config.rotary_scaling
    if scaling is None:
        return found
    rope = {"rope_type": "linear", "factor": scaling.factor}
    if scaling.trained_window is not None:
        rope |= {
            "rope_type": "llama3",
            "low_freq_factor": scaling.low,
            "high_freq_factor": scaling.high,
            "original_max_position_embeddings": scaling.trained_window,
        }
    return {**found, "rope_scaling": rope}
