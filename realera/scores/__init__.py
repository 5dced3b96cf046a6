"""Raw rows become figures with intervals: metrics, readings, statistics, scores.json.

May import: `settings` to `judges`.
"""
