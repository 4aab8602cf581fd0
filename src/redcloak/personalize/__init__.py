"""Trainers: photos of a subject -> a model that can draw it. One file, one method."""
