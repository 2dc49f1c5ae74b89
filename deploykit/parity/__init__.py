"""The parity gate: comparison, budgets, statistics, verdicts."""
