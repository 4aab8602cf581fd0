"""What can be wrong with a matrix and is found before any work: models, prompts, and the people in the photos."""

from __future__ import annotations

from collections.abc import Callable, Set

from redcloak.api import Kind
from redcloak.bench.config import MatrixConfig
from redcloak.bench.grid import Matrix
from redcloak.config import Choice
from redcloak.configured import needs, templates
from redcloak.prompts import check_words
from redcloak.suite import Suite
from redcloak.suite import load as load_suite


def check_prompts(config: MatrixConfig) -> None:
    """See that the text encoder reads every prompt to its end, in training and in sampling."""
    suite = _suite(config)
    said = [each for option in config.trainers for each in templates(suite, option.chain[0])]
    for person in config.subjects:
        subject = person.words.words
        prompts = [prompt.format(subject=subject.name) for each in config.prompts for prompt in each.prompts]
        for words in config.decoupling:
            check_words(suite.tokenizer, subject, words.decoupling, prompts, said)


def check_people(matrix: Matrix, missing: Set[str], warn: Callable[[str], None]) -> None:
    """Look once at the faces of each subject of which anything is ``missing``, where any score looks at faces.

    Raises:
        UserError: no face was found in any photo of a subject.
    """
    suite = _suite(matrix.config)
    if "faces" not in _slots(matrix.config, suite):
        return
    wanting = {arm.axes.subject for arm in matrix.arms if any(node.key in missing for node in arm.targets)}
    for person in matrix.config.subjects:
        if person.label in wanting:
            matrix.strangers[person.label] = said = matrix.digests.look(person.photos, suite)
            if said:
                warn(f"subject {person.label!r}: {said}")
    matrix.digests.keep()


def check_models(matrix: Matrix) -> None:
    """See that the suite has what the methods need, without loading it."""
    suite = _suite(matrix.config)
    suite.check("backbone", *_slots(matrix.config, suite))


def _suite(config: MatrixConfig) -> Suite:
    audit = config.audit(config.subjects[0])
    return load_suite(audit.suite, audit.machine)


def _slots(config: MatrixConfig, suite: Suite) -> tuple[str, ...]:
    """The models of the suite that the methods of a matrix need."""
    metrics = config.audit(config.subjects[0]).metric
    kinds: list[tuple[Kind, tuple[Choice, ...]]] = [
        ("protect", tuple(step for option in config.protections for step in option.chain)),
        ("purify", tuple(step for option in config.purifiers for step in option.chain)),
        ("personalize", tuple(step for option in config.trainers for step in option.chain)),
        ("metrics", tuple(map(metrics, (*config.metrics, "fidelity")))),
    ]
    return needs(suite, [(kind, choice) for kind, choices in kinds for choice in choices])
