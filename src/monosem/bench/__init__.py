"""The Linear Representation Bench: worlds with known features, tasks, metrics, baselines and records."""
