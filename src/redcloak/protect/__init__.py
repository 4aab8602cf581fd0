"""Protections: clean photos -> photos with a protective perturbation. One file, one method."""
