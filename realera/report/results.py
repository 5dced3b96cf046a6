"""The figures of an erasure as a short table for a terminal."""

from pathlib import Path

from realera.scores.summaries import read_summary
from realera.scores.summary import as_text, average
from realera.settings.config import Params


def result_table(params: Params, artifacts: Path) -> str:
    """Return each concept's figures before and after, and the mean where there are several.

    Raises:
        ArtifactError: a concept has not been scored.
    """
    scores = {concept: read_summary(artifacts / concept / "scores.json") for concept in params.concepts}
    tables = [f"{concept}\n{as_text(each)}" for concept, each in scores.items()]
    if len(scores) > 1:
        tables.append(f"mean of {len(scores)} concepts\n{as_text(average(list(scores.values())))}")
    return "\n\n".join(tables)
