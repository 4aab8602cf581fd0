"""Is an adaptive protection fooled by masked gradients? Signs that its ascent did not see through the purifier.

An adaptive protection that fails proves nothing about its purifier unless its gradients were good. Four symptoms say
that they were not: the gradient vanishes behind the purifier; the plain protection beats the adaptive one; more steps
protect less; a larger budget protects less.

Cite: Athalye et al., "Obfuscated Gradients Give a False Sense of Security", ICML 2018, section 3.1; Carlini et al., "On
Evaluating Adversarial Robustness", arXiv 1902.06705, section 3.
"""

from __future__ import annotations

from redcloak.api import Flag
from redcloak.stats import Sample, paired_difference

VANISHED = 0.01  # of the gradient without the purifier


def blind(share: float) -> str | None:
    """What is wrong where hardly any gradient passes the purifier; None where enough does."""
    if share >= VANISHED:
        return None
    return f"{share:.2g} of the gradient passes the purifier: the ascent was blind; try gradient=straight_through."


def plain_beats_adaptive(arm: str, plain: Sample, adaptive: Sample) -> Flag | None:
    """The adaptive protection leaves more identity behind its own purifier than the plain one does."""
    excess = paired_difference(adaptive, plain)
    if not excess.low > 0:
        return None
    message = f"it leaves {excess} more identity behind the purifier it was made for than the plain protection."
    return Flag("plain-beats-adaptive", arm, message)


def more_protects_less(arm: str, what: str, less: Sample, more: Sample) -> Flag | None:
    """More steps, or a larger budget, leave more identity."""
    excess = paired_difference(more, less)
    if not excess.low > 0:
        return None
    message = f"{what} leaves {excess} more identity: the ascent is stuck, or its gradient is wrong."
    return Flag("more-protects-less", arm, message)
