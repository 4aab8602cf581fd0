"""The Protocols that a third party implements, and the frozen values that the stages pass around.

Images are ``(N, 3, H, W)`` float32 in [0, 1] at every public door. A method is a function of
``(images, config, context, generators)`` and keeps no state between calls; ``generators`` holds one CPU
generator per image, so that a result does not depend on which images share a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from redcloak.prompts import Decoupling
    from redcloak.suite import Suite

Kind = Literal["protect", "purify", "personalize", "metrics"]
Norm = Literal["linf", "l2"]
Precision = Literal["fp32", "bf16", "fp16"]
Policy = Literal["auto", "low"]
Progress = Callable[[int, int, dict[str, float]], None]


def silent(done: int, total: int, values: dict[str, float]) -> None:
    """A progress callback that shows nothing."""


@dataclass(frozen=True)
class Budget:
    """The size of a protective perturbation: a norm and its radius in [0, 1] pixel units.

    ``linf`` bounds the largest change of a value, ``l2`` the root of the mean squared change over a photo: so both
    have the same unit at any resolution. It holds for the saved PNG, after both files are read back from disk.
    """

    radius: float
    norm: Norm = "linf"

    @classmethod
    def of_255(cls, steps: float, norm: Norm = "linf") -> Budget:
        """A budget in 8-bit steps, as papers print it: ``Budget.of_255(11)`` is 11/255."""
        return cls(radius=steps / 255, norm=norm)

    def __str__(self) -> str:
        """The budget as papers print it."""
        return f"{self.radius * 255:g}/255" + (" (L2)" if self.norm == "l2" else "")


@dataclass(frozen=True)
class Machine:
    """Where and how a backbone computes: the device, the precision, and what to do where memory is short.

    ``precision``: what is frozen is kept and computed in it; parameters that train stay in float32. ``memory``:
    ``low`` computes activations twice instead of keeping them, and keeps snapshots and idle optimizer states on the
    host or on disk; ``auto`` moves those only where they would not fit. Only the precision can change a result.
    """

    device: str = "cpu"
    precision: Precision = "fp32"
    memory: Policy = "auto"


CPU = Machine()
PEOPLE = frozenset({"person", "face", "man", "woman", "boy", "girl", "child", "people", "human"})


@dataclass(frozen=True)
class Subject:
    """Who or what is personalized: the class noun and the identifier that training binds to it."""

    class_noun: str = "person"
    identifier: str = "sks"

    @property
    def is_human(self) -> bool:
        """Whether the class noun, in any case, is one of a person."""
        return self.class_noun.lower() in PEOPLE

    @property
    def name(self) -> str:
        """How prompts call the subject, e.g. ``sks person``."""
        return f"{self.identifier} {self.class_noun}"

    @property
    def instance_prompt(self) -> str:
        """The DreamBooth prompt of the subject, e.g. ``a photo of sks person``."""
        return f"a photo of {self.name}"

    @property
    def class_prompt(self) -> str:
        """The prompt of the prior-preservation images, e.g. ``a photo of person``."""
        return f"a photo of {self.class_noun}"


class Lens(Protocol):
    """What a protection's images pass before a loss looks at them: a purifier, or several, made differentiable.

    Images ``(N, 3, H, W)`` in [0, 1] and a generator each -> images of the same shape.
    """

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor: ...


class Checkpoint(Protocol):
    """Where a long method keeps its state, so that a kill costs a minute and not the whole."""

    def load(self) -> dict[str, Tensor]:
        """The state that was kept last; empty where there is none."""
        ...

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """Keep a state, where the last is old enough to be worth it; it is only then asked for."""
        ...


class NoCheckpoint:
    """A checkpoint that keeps nothing."""

    def load(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def save(self, state: Callable[[], dict[str, Tensor]]) -> None:
        """Keep nothing."""


@dataclass(frozen=True)
class Context:
    """What a method may use beside its images.

    ``reference`` holds the clean pictures that a protection may train its surrogate on, or that a score compares
    with; ``prompts`` the prompt of each picture that is scored. ``progress`` takes (done, total, values). ``lens`` is
    what an adaptive protection looks through, ``lens_draws`` times a step; ``decoupling`` the prompts of the trainer,
    or of a surrogate. ``checkpoint`` keeps the state of a long method.
    """

    suite: Suite
    subject: Subject = field(default_factory=Subject)
    decoupling: Decoupling | None = None
    class_images: Tensor | None = None
    reference: Tensor | None = None
    prompts: tuple[str, ...] = ()
    progress: Progress = silent
    lens: Lens | None = None
    lens_draws: int = 1
    checkpoint: Checkpoint = field(default_factory=NoCheckpoint)


class Protector(Protocol):
    """Clean images -> protected images of the same shape, inside ``config.budget`` on the 8-bit lattice."""

    def __call__(self, images: Tensor, config: Any, context: Context, generators: Sequence[Generator]) -> Tensor: ...


class Purifier(Protocol):
    """Images -> images in [0, 1] of the same height and width; each image independent of its companions."""

    def __call__(self, images: Tensor, config: Any, context: Context, generators: Sequence[Generator]) -> Tensor: ...


class Trainer(Protocol):
    """Personalize ``context.suite.backbone`` in place; the caller lends it by ``backbone.borrowed()``."""

    def __call__(self, images: Tensor, config: Any, context: Context, generator: Generator) -> None: ...


class Metric(Protocol):
    """Images -> one value per image and score name (``nan`` where the score is undefined for that image)."""

    def __call__(self, images: Tensor, config: Any, context: Context) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Score:
    """What one score means: the direction that is better, its range, unit, and smallest sensible sample.

    ``higher_is_better`` is None where neither direction is. ``of_set``: the mean over the pictures of one seed is the
    score of that set, and a single picture has none; ``minimum_n`` is then the size of each set and of the reference.
    """

    title: str
    higher_is_better: bool | None
    low: float
    high: float
    unit: str = ""
    minimum_n: int = 1
    of_set: bool = False

    @property
    def better(self) -> str:
        """``higher``, ``lower`` or ``neither``."""
        return {True: "higher", False: "lower", None: "neither"}[self.higher_is_better]


@dataclass(frozen=True)
class Needs:
    """What a task takes while it runs: cores, GPUs (a fraction shares one), MiB of host memory (0: not known)."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_mb: float = 0.0

    @classmethod
    def together(cls, needs: Iterable[Needs]) -> Needs:
        """What steps take that run one after another: the most of each."""
        return cls(*(max(column) for column in zip(*map(astuple, (cls(), *needs)), strict=True)))


@dataclass(frozen=True)
class Method:
    """The metadata each method file declares as ``METHOD``: what it is, whose it is, what it may be used for.

    ``version`` enters the cache key: raise it whenever the same configuration gives another result.
    ``paired``: a metric compares each picture with its own original, where others take all reference photos together.
    ``differentiable``: gradients flow through a purifier, so that an adaptive protection need not approximate them;
    the model in a suite's slot may still be one that they do not pass.
    ``resources`` are what it takes where there are GPUs; by default one of them where it uses a model, else none.
    """

    title: str
    cite: str
    version: int = 1
    license: str = "Apache-2.0"
    stochastic: bool = False
    needs: tuple[str, ...] = ()
    differentiable: bool = False
    paired: bool = False
    scores: dict[str, Score] = field(default_factory=dict)
    resources: Needs | None = None

    def takes(self, device: str) -> Needs:
        """What a run of the method takes on ``device``: no GPU but on CUDA."""
        needs = self.resources or Needs(gpus=1.0 if self.needs else 0.0)
        return needs if device.startswith("cuda") else replace(needs, gpus=0.0)


@dataclass(frozen=True)
class Flag:
    """A red flag: a reason not to believe a number. ``anchor`` is its section in docs/red-flags.md.

    ``info`` says what a reader must know to read the number, and is no reason to doubt it. ``also`` names the other
    arms that it speaks of.
    """

    anchor: str
    arm: str
    message: str
    severity: Literal["info", "warning", "critical"] = "warning"
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, the number of clusters it rests on, and the level."""

    estimate: float
    low: float
    high: float
    clusters: int
    level: float = 0.95

    def __str__(self) -> str:
        """Three digits and the interval in brackets."""
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"
