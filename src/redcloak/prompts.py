"""Contrastive decoupling learning (CDL) as a prompt policy: what training and sampling say about the noise.

CDL adds no loss and, as released, no token embedding. It names the perturbation in the instance prompt ("bhj noisy
pattern") so that fine-tuning can tie the noise to those words rather than to the identifier, denies it in the
class prompt ("without ..."), denies it again when sampling, and puts quality words into the negative prompt.
Each part can be switched on its own.

Cite: Liu et al., "Rethinking and Red-Teaming Protective Perturbation in Personalized Diffusion Models",
arXiv 2406.18944, section 4.3 and equation 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from redcloak.api import Subject
from redcloak.errors import UserError

NEGATIVE = {
    "paper": "noisy, abstract, pattern, low quality",
    "released": "noisy, lowres, artifact, pattern",
}
JOINER = {"paper": " with ", "released": ", "}
QUALITY = {"paper": ", high quality, highres", "released": ", clear, high resolution, high quality, noise-free"}
SUBJECT = "{subject}"
NEW_WORD = re.compile(r"<noise-\d+>")
LATER = (
    "class_suffix",
    "quality_tags",
    "tokens",
    "count",
)  # recorded only where they say something


class Decoupling(BaseModel):
    """The switches of contrastive decoupling learning, and the words it uses.

    ``variant``: ``released`` is what the authors' code does, and so what their figures come from: it joins the
    instance suffix by a comma. ``paper`` joins it by "with" and takes another negative prompt. Both deny the noise by
    ", without ..." in the class prompt and when sampling. On the small suite that one word matters: with "with" in the
    prompt, fine-tuning has a word for the subject that sampling then leaves out (``benchmarks/effect.py``).

    New words (``tokens``) stand where ``noise_token`` would. ``shared``: all photos have the same ``count`` words.
    ``per_image``: every photo has ``count`` of its own, and sampling denies their means. ``clusters``: the photos fall
    into ``count`` clusters by what noise they carry, each with a word; training denies, as sampling does, all of them.

    ``quality_tags`` are no part of CDL: they are the words that the authors' code and paper give to their latent
    diffusion purifier, here for whoever wants to know what asking for quality does on its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_suffix: bool = Field(True, description="name the noise in the instance prompt")
    class_suffix: bool | None = Field(
        None, description='deny it ("without") in the class prompt; by default where train_suffix names it'
    )
    infer_suffix: bool = Field(True, description="deny the noise in the sampling prompt")
    negative_prompt: bool = Field(True, description="quality words in the negative prompt")
    quality_tags: bool = Field(False, description="quality words in the sampling prompt")
    noise_token: str = Field(
        "bhj noisy pattern", min_length=1, description="what the noise is called, or what its new words begin as"
    )
    tokens: Literal["text", "shared", "per_image", "clusters"] = Field(
        "text",
        description="noise_token as it is written; or new words that train: the same for all photos, others for each, "
        "or one for each cluster of residuals",
    )
    count: Literal[1, 2, 4] = Field(1, description="K: how many new words name the noise of a photo, or of clusters")
    variant: Literal["paper", "released"] = "released"

    @field_validator("noise_token")
    @classmethod
    def _spoken(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a noise token of blanks names nothing; give a word")
        return value

    @model_validator(mode="after")
    def _words_that_train(self) -> Self:
        if self.tokens == "text" and self.count != 1:
            raise ValueError(f"count = {self.count} counts new words; set tokens to shared, per_image or clusters")
        if self.tokens != "text" and not self.train_suffix:
            raise ValueError(f"tokens = {self.tokens}: new words train where the instance prompt has them; "
                             "set train_suffix=true, or tokens=text")  # fmt: skip
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The fields; those that came later only where they say something, so that older results keep their keys."""
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {name: value for name, value in values.items() if name not in LATER or value != fields[name].default}

    @property
    def denies(self) -> bool:
        """Whether the class prompt of training says "without"."""
        return self.train_suffix if self.class_suffix is None else self.class_suffix

    @property
    def training(self) -> dict[str, Any] | None:
        """What training depends on, for cache keys; None where it is trained without decoupling."""
        if not (self.train_suffix or self.denies):
            return None
        values = self.model_dump(mode="json", include={"train_suffix", "noise_token", "variant"})
        if self.tokens != "text":
            values |= {"tokens": self.tokens, "count": self.count}
        return values if self.denies == self.train_suffix else values | {"class_suffix": self.denies}

    @property
    def words(self) -> tuple[str, ...]:
        """The new words that sampling denies; none where the noise token is text."""
        return () if self.tokens == "text" else tuple(f"<noise-{index}>" for index in range(1, self.count + 1))

    @property
    def phrase(self) -> str:
        """What the noise is called where no photo is meant in particular."""
        return " ".join(self.words) or self.noise_token

    def instance(self, subject: Subject, phrase: str | None = None) -> str:
        """The instance prompt used in training; ``phrase``: what the noise of one photo is called."""
        return self.naming(subject.instance_prompt, phrase)

    def naming(self, prompt: str, phrase: str | None = None) -> str:
        """Any prompt of the subject as training says it: with the noise named, where that is switched on."""
        return prompt + (JOINER[self.variant] + (phrase or self.phrase) if self.train_suffix else "")

    def prior(self, subject: Subject, phrase: str | None = None) -> str:
        """The class prompt used in training (class images are always generated from the plain one)."""
        return subject.class_prompt + (f", without {phrase or self.phrase}" if self.denies else "")

    def sampling(self, prompt: str) -> str:
        """The prompt used in sampling."""
        tags = QUALITY[self.variant] if self.quality_tags else ""
        return prompt + tags + (f", without {self.phrase}" if self.infer_suffix else "")

    @property
    def negative(self) -> str:
        """The negative prompt used in sampling; empty where it is switched off."""
        return NEGATIVE[self.variant] if self.negative_prompt else ""


def check_named(prompt: str, *identifiers: str) -> None:
    """Refuse, by a :class:`UserError`, a prompt that has none of these identifiers as a word of its own."""
    if not set(identifiers) & set(prompt.split()):
        raise UserError(f"prompts: {prompt!r} does not name the subject, so anybody would do; put {{subject}} in it.")


def check_words(
    tokenizer: Any, subject: Subject, decoupling: Decoupling, prompts: Sequence[str], templates: Sequence[str] = ()
) -> None:
    """See that a tokenizer can say what training and sampling will ask of it; ``prompts`` name the subject in full.

    ``templates``: the trainer's instance prompts, with ``{subject}`` where its words go.

    Raises:
        UserError: the identifier or the noise token is unknown to it or says the same as the other, or a prompt is
            longer than the text encoder reads, so that its end (where the noise is denied) would be cut off.
    """
    fields = {"subject.identifier": subject.identifier, "decoupling.noise_token": decoupling.noise_token}
    for field, text in fields.items():
        tokens = tokenizer(text, add_special_tokens=False).input_ids
        if not tokens or tokenizer.unk_token_id in tokens:
            raise UserError(f"{field} = {text!r}: the tokenizer does not know it (token {tokenizer.unk_token!r}); "
                            "choose other letters.")  # fmt: skip
    if subject.identifier in decoupling.noise_token.split():
        raise UserError(
            f"decoupling.noise_token = {decoupling.noise_token!r} holds the identifier {subject.identifier!r}: then "
            "nothing tells the noise from the subject; choose another."
        )
    named = [decoupling.naming(template.replace(SUBJECT, subject.name)) for template in templates]
    asked = [decoupling.instance(subject), *named, decoupling.prior(subject), decoupling.negative]
    check_lengths(tokenizer, [*asked, *map(decoupling.sampling, prompts)])


def check_lengths(tokenizer: Any, prompts: Iterable[str]) -> None:
    """Refuse, by a :class:`UserError`, a prompt that is longer than the text encoder reads: its end would be cut off.

    New words for the noise count as one token each, whether the tokenizer knows them yet or not.
    """
    for prompt in prompts:
        length = len(tokenizer(NEW_WORD.sub("1", prompt)).input_ids)
        if length > tokenizer.model_max_length:
            raise UserError(
                f"prompt {prompt!r} has {length} tokens and the text encoder reads {tokenizer.model_max_length}: "
                "shorten it."
            )


NONE = Decoupling(train_suffix=False, infer_suffix=False, negative_prompt=False)
