"""Where protections move photos in CLIP's space, over several people: ``python benchmarks/misalignment.py``.

Without ``--photos``, drawn people are protected by ``--protection`` (kept in ``--out`` and not made again); with it,
each folder in there that holds ``clean/`` and ``protected/`` is a subject that somebody else protected. Prints the
change of every measure from the clean photos in the protected, purified and control-perturbed ones: photos are paired,
whole subjects are drawn again for the 95% intervals. ``--clip FOLDER`` adds a transformers CLIP.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from redcloak import steps
from redcloak.api import Context
from redcloak.config import AuditConfig, Choice
from redcloak.diagnose.clips import clips
from redcloak.diagnose.groups import CLEAN, groups, linf, pairs
from redcloak.diagnose.misalignment import OF_DECODED, OF_PHOTOS, SCORES, Concepts, difference, measure
from redcloak.generate import Sampling, generate
from redcloak.suite import load

Scores = dict[str, Tensor]
Found = dict[tuple[str, str], list[tuple[str, Scores]]]  # CLIP and group -> subject and scores, subject by subject


def drawn(args: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Name, protected folder and clean photos of each drawn person; protects those that are not there yet."""
    found = []
    for number in range(args.first, args.first + args.people):
        out = args.out / f"{args.protection}-{number}"
        if not out.is_dir():
            config = AuditConfig(photos=f"drawn:{number}", suite=args.suite, protection=Choice(name=args.protection))
            steps.protect(config, out, force=True)
        found.append((f"drawn:{number}", str(out), f"drawn:{number}"))
    return found


def given(folder: Path) -> list[tuple[str, str, str]]:
    """The same of photos that somebody else protected."""
    subjects = [each for each in sorted(folder.iterdir()) if (each / CLEAN).is_dir()]
    return [(each.name, str(each / "protected"), str(each / CLEAN)) for each in subjects]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--protection", default="aspl")
    parser.add_argument("--first", type=int, default=300)
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--size", type=int)
    parser.add_argument("--purify", nargs="*", default=["gaussian", "jpeg", "codesr"])
    parser.add_argument("--control", nargs="*", default=["random_noise", "shuffled", "transplant"])
    parser.add_argument("--clip", type=Path, nargs="*", default=[])
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("misalignment"))
    args = parser.parse_args()
    suite = load(args.suite)
    context, lookers = Context(suite), clips(suite, args.clip)
    prompt, concepts = context.subject.class_prompt, Concepts.of(context.subject.class_noun)
    sampling = Sampling(guidance=suite.spec.guidance)
    members = generate(suite.backbone, [prompt], args.members, 0, sampling)[0] if args.members > 1 else None
    found: Found = {}
    sizes = []
    for name, protected, clean in given(args.photos) if args.photos else drawn(args):
        pairing = pairs(protected, clean, args.size or suite.spec.resolution)
        made, _ = groups(pairing, [[Choice(name=one)] for one in args.purify], args.control, context)
        sizes.append(linf(made[1].images, made[0].images))
        for looker, clip in lookers.items():
            for group in made:
                more = {"clean": made[0].images, "members": members, "concepts": concepts}
                scores = measure(group.images, prompt, clip, suite.backbone, **more)
                found.setdefault((looker, group.name), []).append((name, scores))
    print(f"{len(sizes)} subjects, L_inf {min(sizes)} to {max(sizes)} of 255 after fitting")
    for looker in lookers:
        for title, names in (("photos", OF_PHOTOS), ("after the autoencoder", OF_DECODED)):
            show(found, looker, title, names)


def show(found: Found, looker: str, title: str, names: tuple[str, ...]) -> None:
    """One table in Markdown: the mean of the clean photos, then changes with their intervals."""
    clean = found[looker, CLEAN]
    names = tuple(name for name in names if name in clean[0][1])
    print(f"\n{looker}, {title}\n\n| group | {' | '.join(SCORES[name].title for name in names)} |")
    print("|---" * (len(names) + 1) + "|")
    means = [torch.stack([scores[name].mean() for _, scores in clean]).mean() for name in names]
    print(f"| clean | {' | '.join(f'{float(mean):.3f}' for mean in means)} |")
    for (of, group), parts in found.items():
        if of == looker and group != CLEAN:
            print(f"| {group} | {' | '.join(change(parts, clean, name) for name in names)} |")


def change(parts: list[tuple[str, Scores]], clean: list[tuple[str, Scores]], name: str) -> str:
    """The mean change with its interval over subjects."""
    after, before = (torch.cat([scores[name] for _, scores in each]).double().numpy() for each in (parts, clean))
    subjects = [subject for subject, scores in parts for _ in scores[name]]
    found = difference(after, before, subjects)
    return f"{found.estimate:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


if __name__ == "__main__":
    main()
