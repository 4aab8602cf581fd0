"""Public checkpoints, brought to the folders that a suite loads."""
