"""Words become prompts, prompts become tokens and embeddings: templates, spans, vocabulary, benchmarks' prompt files.

May import: `settings`, `store`, `runtime`.
"""
