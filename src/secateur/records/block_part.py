"""Names of the parts of an encoder in records, and the parts of blocks in old records, which lack the name."""

from __future__ import annotations

import re

FRONT_END = "front end"
PROJECTION = "projection"
POSITIONAL_CONV = "positional conv"
ATTENTION = "attention"
FEED_FORWARD = "feed-forward"
REST = "rest"
CONVOLUTION = "convolution"

#: Parts of an encoder in the order in which tables and figures list them.
PARTS = (FRONT_END, PROJECTION, POSITIONAL_CONV, ATTENTION, FEED_FORWARD, REST, CONVOLUTION)

#: Pattern of a module path, and the part that the module belongs to. The first pattern that matches counts. A number in
#: the pattern is the layer, or the convolution in the front end.
_PATTERNS = (
    (re.compile(r"feature_extractor\.conv_layers\.(\d+)"), FRONT_END),
    (re.compile(r"(?:feature_extractor|subsampling)\b"), FRONT_END),
    (re.compile(r"feature_projection\b"), PROJECTION),
    (re.compile(r"encoder\.pos_conv"), POSITIONAL_CONV),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\.(?:attention|self_attn)\b"), ATTENTION),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\.(?:feed_forward[12]?|ffn[12])\b"), FEED_FORWARD),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\.conv(?:_module)?\b"), CONVOLUTION),
    (re.compile(r"(?:encoder\.)?layers\.(\d+)\b"), REST),
)


def part_of_path(path: str) -> tuple[str, int | None]:
    """Return the part and the layer of a module path or axis name of an old record.

    Examples: ``encoder.layers.3.attention/heads`` is of ``("attention", 3)``, and ``masked_spec_embed`` of
    ``("rest", None)``.
    """
    for pattern, part in _PATTERNS:
        if match := pattern.match(path):
            return part, int(match[1]) if match.groups() else None
    return REST, None
