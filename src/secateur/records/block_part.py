"""Part of the encoder of each block in records that were written before blocks had one."""

from __future__ import annotations

import re

#: Pattern of a module path, and the part that the module belongs to. The first pattern that matches counts. A number in
#: the pattern is the layer, or the convolution in the front end.
_PATTERNS = (
    (re.compile(r"feature_extractor\.conv_layers\.(\d+)"), "front end"),
    (re.compile(r"(?:feature_extractor|subsampling)\b"), "front end"),
    (re.compile(r"feature_projection\b"), "projection"),
    (re.compile(r"encoder\.pos_conv"), "positional conv"),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\.(?:attention|self_attn)\b"), "attention"),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\.(?:feed_forward[12]?|ffn[12])\b"), "feed-forward"),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\.conv(?:_module)?\b"), "convolution"),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\b"), "rest"),
)


def part_of_path(path: str) -> tuple[str, int | None]:
    """Return the part and the layer of a module path or axis name of an old record.

    Examples: ``encoder.layers.3.attention/heads`` is of ``("attention", 3)``, and ``masked_spec_embed`` of
    ``("rest", None)``.
    """
    for pattern, part in _PATTERNS:
        if match := pattern.match(path):
            return part, int(match[1]) if match.groups() else None
    return "rest", None
