"""What a PromQL expression speaks of."""

import re

_WORDS = {
    *("by", "without", "on", "ignoring", "group_left", "group_right"),
    *("and", "or", "unless", "bool", "offset", "inf", "nan"),
}
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_MATCHED = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")


def metric_names(expression: str) -> set[str]:
    """The metrics in it: every name that is no function, no word of PromQL and no label."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = _LABELS.sub("", bare)
    names = re.findall(r"(?<![\w.])([a-zA-Z_:][\w:]*)\b(?!\s*\()", bare)
    return {name for name in names if name.lower() not in _WORDS}


def label_names(expression: str) -> set[tuple[str, str]]:
    """Each metric with a label that it is chosen by."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    return {
        (metric, label)
        for metric, inside in _MATCHED.findall(bare)
        for label in re.findall(r"(\w+)\s*[!=]", inside)
    }
