"""Replace what a source matches in a key by what a target writes."""

from __future__ import annotations

from weighbridge.pattern.matching import Pattern


def rewrite(source: Pattern, target: Pattern, key: str, *, literal: bool = False) -> str | None:
    """Replace the leftmost match of a source, once.

    Args:
        source: What is matched.
        target: What is written in its place.
        key: A key, or a template (`Pattern.match`).
        literal: As in `Pattern.match`.

    Returns:
        The new key; None if the source does not match, or an offset makes an index negative.

    Raises:
        PatternError: `pattern-reference` as `Pattern.fill`.

    Examples:
        >>> rewrite(Pattern.parse("attn"), Pattern.parse("self_attn"), "layers.0.attn.q.weight")
        'layers.0.self_attn.q.weight'
    """
    match = source.match(key, literal=literal)
    if match is None:
        return None
    filled = target.fill(match.captures)
    return None if filled is None else key[: match.start] + filled + key[match.stop :]
