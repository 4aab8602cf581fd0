"""Contrastive decoupling learning (CDL) as a prompt policy: what training and sampling say about the noise.

CDL adds no loss and no token embedding. It names the perturbation in the instance prompt ("bhj noisy
pattern") so that fine-tuning can tie the noise to those words rather than to the identifier, denies it in the
class prompt ("without ..."), denies it again when sampling, and puts quality words into the negative prompt.
Each part can be switched on its own.

Cite: Liu et al., "Rethinking and Red-Teaming Protective Perturbation in Personalized Diffusion Models",
arXiv 2406.18944, section 4.3 and equation 6.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from redcloak.api import Subject

NEGATIVE = {
    "paper": "noisy, abstract, pattern, low quality",
    "released": "noisy, lowres, artifact, pattern",
}
JOINER = {"paper": " with ", "released": ", "}


class Decoupling(BaseModel):
    """The switches of contrastive decoupling learning, and the words it uses.

    ``variant``: ``released`` is what the authors' code does, and so what their figures come from: it joins the
    instance suffix by a comma. ``paper`` joins it by "with" and takes another negative prompt. Both deny the noise by
    ", without ..." in the class prompt and when sampling. On the small suite that one word matters: with "with" in the
    prompt, fine-tuning has a word for the subject that sampling then leaves out (``benchmarks/effect.py``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_suffix: bool = Field(True, description="name the noise in the instance prompt, deny it in the class prompt")
    infer_suffix: bool = Field(True, description="deny the noise in the sampling prompt")
    negative_prompt: bool = Field(True, description="quality words in the negative prompt")
    noise_token: str = Field("bhj noisy pattern", min_length=1)
    variant: Literal["paper", "released"] = "released"

    def instance(self, subject: Subject) -> str:
        """The instance prompt used in training."""
        suffix = JOINER[self.variant] + self.noise_token if self.train_suffix else ""
        return subject.instance_prompt + suffix

    def prior(self, subject: Subject) -> str:
        """The class prompt used in training (class images are always generated from the plain one)."""
        return subject.class_prompt + (f", without {self.noise_token}" if self.train_suffix else "")

    def sampling(self, prompt: str) -> str:
        """The prompt used in sampling."""
        return prompt + (f", without {self.noise_token}" if self.infer_suffix else "")

    @property
    def negative(self) -> str:
        """The negative prompt used in sampling; empty where it is switched off."""
        return NEGATIVE[self.variant] if self.negative_prompt else ""


NONE = Decoupling(train_suffix=False, infer_suffix=False, negative_prompt=False)
