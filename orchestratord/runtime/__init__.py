"""The shell around the decisions: the dispatcher acts, the logs remember."""
