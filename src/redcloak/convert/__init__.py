"""Converters of public checkpoints to what a suite or a method loads: run as modules, each on its own."""
