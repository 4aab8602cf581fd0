"""The causal study: how photos are perturbed and what is trained on them, so that one thing varies at a time.

Arms: a protection, and controls that keep its statistics; other protections and half the budget, for dose and response;
perturbations that move only what CLIP sees, or only what the trainer sees; the protection re-aligned; the protected
photos under words that fit them, and models with another's words; the red team's parts on clean photos, and purifiers
with CDL on protected ones; an adaptive protection, against nothing and against CodeSR with CDL. docs/causal.md tells
how verdicts are read from them.
"""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import Field

from redcloak import registry
from redcloak.arms import Arm, Builder
from redcloak.bench.config import yaml_values
from redcloak.config import AuditConfig, Choice, Strict, SubjectConfig, transport
from redcloak.diagnose.verdicts import Margins
from redcloak.parsing import validate
from redcloak.prompts import NONE, Decoupling
from redcloak.report.model import Arm as ArmSummary
from redcloak.runtime.matrix import Graph
from redcloak.subjects import load_subjects
from redcloak.suite import load as load_suite

CODESR = (Choice(name="codesr"),)
PURIFIERS = ("", "ddspure", "codesr")  # with CDL, on protected photos
SILENT = Decoupling(negative_prompt=False)  # CDL without its negative prompt
NEGATIVE = Decoupling(train_suffix=False, infer_suffix=False)  # the negative prompt without CDL
UNKNOWN = "noise"  # what photos are called before they are there to be looked at: for a plan


class StudyConfig(Strict):
    """What a person writes of a study; ``study`` tells it from a matrix."""

    study: Literal["causal"]
    protocol: str = Field("own", min_length=1, description="the name that reports print")
    version: int = Field(1, ge=1, description="of the protocol; raise it whenever its numbers would change")
    title: str = ""
    suite: str = "tiny"
    subjects: tuple[str, ...] = Field(min_length=1, description="folders of photos, or drawn:N")
    words: SubjectConfig = Field(SubjectConfig(), description="what all subjects are called")
    seeds: tuple[int, ...] = Field((0, 1), min_length=1)
    common_seeds: bool = Field(False, description="a seed is the same noise for every subject; else each has its own")
    base: str = Field("advdm", description="the protection that is taken apart")
    others: tuple[str, ...] = Field(("photoguard", "pid"), description="protections beside it, for dose and response")
    budget: float = Field(11.0, ge=2, le=64, description="/255, L_inf")
    ascent: int = Field(60, ge=1, description="steps of each perturbation, where it has steps")
    noise_shift: float = Field(0.12, gt=0, description="latent shift that sign noise has, root mean square")
    steps: int = Field(150, ge=1, description="steps of each training")
    images_per_prompt: int = Field(4, ge=1, le=64)
    sampling_steps: int = Field(25, ge=1, le=999)
    class_images: int = Field(32, ge=0, le=1000)
    margins: Margins = Field(Margins(), description="the smallest effects that count, declared before the run")
    learn: bool = Field(True, description="false: perturb the photos and verify what was done, train nothing")
    device: str = transport("cpu")
    workers: int = transport(2, ge=1, le=64)

    @property
    def name(self) -> str:
        """The protocol and its version, as reports print it."""
        return f"{self.protocol} v{self.version}"

    def audit(self, photos: str) -> AuditConfig:
        """The configuration of one subject."""
        same = ("suite", "seeds", "common_seeds", "budget", "images_per_prompt", "sampling_steps", "class_images")
        place = ("device", "workers")
        return AuditConfig(
            photos=photos,
            subject=self.words,
            protection=Choice(name="none"),
            trainer=Choice(name="dreambooth", settings={"steps": self.steps}),
            **{name: getattr(self, name) for name in (*same, *place)},
        )

    def text(self) -> str:
        """The study as YAML with every default resolved; it reads back as the same."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load(name: str, **flags: Any) -> StudyConfig:
    """A study by the name of a protocol or from a YAML file; flags that are not None replace its fields."""
    values = yaml_values(name) | {key: value for key, value in flags.items() if value is not None}
    return validate(StudyConfig, values, str(name))


def perturbations(config: StudyConfig) -> dict[str, Choice]:
    """Every way that photos are perturbed, by its name in the tables."""
    short, base = {"steps": config.ascent}, _at(config, config.base)
    both, from_base = short | {"view": "both"}, {"base": base.model_dump(mode="json")}
    held = both | {"steps": 4 * config.ascent, "tolerance": 0.075}  # less of either moves the latents too little
    return aimed(config) | {
        "random_noise": Choice(name="random_noise"),
        "matched_noise": Choice(name="matched_noise", settings=from_base),
        "shuffled": Choice(name="shuffled", settings=from_base),
        "transplant": Choice(name="transplant", settings=from_base),
        "clip_only": Choice(name="clip_only", settings=short),
        "clip_decoded": Choice(name="clip_only", settings=short | {"view": "decoded", "tolerance": config.noise_shift}),
        "latents_only": Choice(name="latents_only", settings=held),
        "realign": Choice(name="realign", settings=short | from_base),
        "realign_decoded": Choice(name="realign", settings=both | from_base | {"keeps": "size", "tolerance": 0.1}),
    }


def aimed(config: StudyConfig) -> dict[str, Choice]:
    """The protections at the whole budget and at half of it, and the adaptive one: what has a dose."""
    base = _at(config, config.base)
    through = {"base": base.model_dump(mode="json"), "through": [["codesr"]]}
    found = {"base": base, "half": _at(config, config.base, config.budget / 2)}
    for name in (each for each in config.others if each != config.base):
        found |= {name: _at(config, name), f"{name}_half": _at(config, name, config.budget / 2)}
    return found | {"adaptive": Choice(name="adaptive", settings=through)}


def _at(config: StudyConfig, name: str, budget: float | None = None) -> Choice:
    """A protection with the study's ascent; one in rounds has steps of its own."""
    takes = "steps" in registry.describe("protect", name).config.model_fields
    own = ({"steps": config.ascent} if takes else {}) | ({"budget": budget} if budget else {})
    return Choice(name=name, settings=own)


def builders(config: StudyConfig) -> dict[str, Builder]:
    """A builder for each subject, all on one graph."""
    suite, graph = load_suite(config.suite, config.audit(config.subjects[0]).machine), Graph()
    photos = load_subjects(config.subjects, suite.spec.resolution, "subjects")
    return {name: Builder(config.audit(name), suite, each, graph) for name, each in photos.items()}


def photos_of(builder: Builder, choices: dict[str, Choice]) -> list[Arm]:
    """The perturbed photos alone: no model is trained."""
    summary = ArmSummary(name="clean", title="clean", words="")
    made = [Arm(summary, photos=builder.clean)]
    for name, choice in choices.items():
        made.append(Arm(summary.model_copy(update={"name": name}), photos=builder.protect(choice)))
    return made


def arms_of(builder: Builder, choices: dict[str, Choice], words: str = UNKNOWN) -> list[Arm]:
    """Every arm of one subject; ``words`` are what its protected photos look like to CLIP."""
    made = {name: builder.protect(choice) for name, choice in choices.items()}
    arms = [builder.arm("clean", "Clean", "", builder.clean)]
    arms += [builder.arm(name, name, "", node, protection=name) for name, node in made.items()]
    fitting = Decoupling(
        class_suffix=False, infer_suffix=False, negative_prompt=False, noise_token=words
    )  # the instance prompt alone says what is there
    arms.append(builder.but(decoupling=fitting).arm("words", "Fitting words", words, made["base"], (), True))
    first = {arm.summary.name: arm for arm in arms}
    for part in ("identifier", "text_encoder"):
        arms.append(builder.swapped(f"swap_{part}", f"Swapped {part}", "", first["base"], first["clean"], part))
    cures = [("base", purifier) for purifier in PURIFIERS] + [("adaptive", "codesr")]
    for source, purifier in cures:
        name = "+".join(part for part in (source, purifier, "cdl") if part)
        chain = (Choice(name=purifier),) if purifier else ()
        arms.append(builder.arm(name, name, "", made[source], chain, True))
    return arms + factorial(builder)


def factorial(builder: Builder) -> list[Arm]:
    """CodeSR, CDL and the negative prompt on clean photos; nothing at all is the clean arm itself."""
    words = {"": NONE, "+cdl": SILENT, "+negative": NEGATIVE, "+cdl+negative": Decoupling()}
    return [
        builder.but(decoupling=decoupling).arm(
            f"clean{purifier}{name}", f"clean{purifier}{name}", "", builder.clean, chain, True
        )
        for purifier, chain in (("", ()), ("+codesr", CODESR))
        for name, decoupling in words.items()
        if purifier or name
    ]
