"""From explanations and scores to gains: one rule a file; drift, budget and baselines."""
