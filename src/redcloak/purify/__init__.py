"""Purifiers: photos -> photos with (one hopes) less perturbation. One file, one method."""
