"""Speed and growth, as ratios of two things measured side by side; `python -m benchmarks` runs them."""
