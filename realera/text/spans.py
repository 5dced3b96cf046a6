"""Which tokens of a prompt an erasure changes, and which of the anchor's prompt they shall act as."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Where a prompt's name lies among its tokens.

    Attributes:
        first: first token of the name; 1 for a text without any.
        last: last token of the name, inclusive; 0 for a text without any.
        num_tokens: with BOS and EOT, without padding.
    """

    first: int
    last: int
    num_tokens: int


@dataclass(frozen=True)
class Pair:
    """A target's prompt and its anchor's, from the same template.

    Attributes:
        target_id: row of the target's prompt.
        anchor_id: row of the anchor's prompt.
        tokens: [(token of the target's prompt, token of the anchor's)] to change.
    """

    target_id: int
    anchor_id: int
    tokens: list[tuple[int, int]]


def aligned(target: Tokens, anchor: Tokens, span: str, length: int) -> list[tuple[int, int]]:
    """Pair the tokens to change with the anchor's tokens that they shall act as.

    Names are aligned at their last token; where the target's is longer, its first tokens all
    meet the anchor's first. What follows the names is paired one by one.

    Args:
        target: of the prompt with the target's name.
        anchor: of the same template with the anchor's name.
        span: `concept`, `concept_to_eot` or `concept_to_end` (padding carries the concept too).
        length: T, tokens with padding.

    Returns:
        [(token of the target's prompt, token of the anchor's prompt)], never BOS.
    """
    pairs = [
        (token, max(anchor.last - (target.last - token), anchor.first))
        for token in range(target.first, target.last + 1)
    ]
    stop = {"concept": target.last + 1, "concept_to_eot": target.num_tokens, "concept_to_end": length}[span]
    rest = range(target.last + 1, stop)
    return pairs + [(token, min(anchor.last + token - target.last, length - 1)) for token in rest]
