"""Can a subject be learned? DreamBooth on clean photos of people the suite has never seen, against the untuned model.

``python benchmarks/learn.py`` uses drawn subjects; add folders of real photos as arguments. Prints identity (cosine to
held-out photos, "no face" counted as 0), faces found and quality, before and after, and the photos' own identity: what
a perfect model would reach. ``--set`` tries other settings of DreamBooth.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from redcloak.arms import Arm, Builder
from redcloak.config import AuditConfig, Choice, parse_settings
from redcloak.execute import run
from redcloak.matrix import Graph, Node
from redcloak.report.table import Table
from redcloak.stats import cluster_bootstrap
from redcloak.store import Artifact, Store
from redcloak.subjects import load_subject
from redcloak.suite import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", help="folders of photos of one person each, or drawn:N")
    parser.add_argument("--subjects", type=int, default=6, help="drawn subjects, where no photos are given")
    parser.add_argument("--set", action="append", default=[], help="a setting of dreambooth, name=value")
    parser.add_argument("--suite", default="tiny")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=None)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="a folder to keep the results in")
    args = parser.parse_args()
    suite, graph = load(args.suite), Graph()
    arms: dict[str, list[Arm]] = {}
    for photos in args.photos or [f"drawn:{number}" for number in range(100, 100 + args.subjects)]:
        trainer = Choice(name="dreambooth", settings=parse_settings(args.set))
        more = {"guidance": args.guidance} if args.guidance else {}
        config = AuditConfig(
            photos=photos, suite=args.suite, trainer=trainer, seeds=tuple(range(args.seeds)),
            protection=Choice(name="none"), **more,
        )  # fmt: skip
        builder = Builder(config, suite, load_subject(photos, suite.spec.resolution), graph)
        arms[photos] = [builder.untuned(), builder.arm("clean", "Clean", "", builder.clean)]
    store = Store(args.out or Path(tempfile.mkdtemp()))
    targets = list(dict.fromkeys(node for row in arms.values() for arm in row for node in arm.targets))
    run(graph, store, "redcloak.stages:run_stage", targets, args.workers)

    def read(node: Node) -> Artifact:
        found = store.open(node.key)
        assert found is not None, node.label
        return found

    scores = Table.of(row for name, group in arms.items() for arm in group for row in arm.rows(name, read))
    if args.out:
        scores.write(args.out / "scores.parquet")
    print("| subject | pictures | identity | face found | quality |\n|---|---|---|---|---|")
    for name in [*arms, "all"]:
        rows = scores if name == "all" else scores.select(subject=name)
        for title, arm, source in (
            ("untuned", "untuned", "generated"), ("personalized", "clean", "generated"), ("photos", "clean", "photos"),
        ):  # fmt: skip
            cells = []
            for metric in ("identity_zero", "face_found", "quality"):
                sample = rows.sample(arm, metric, "generated" if source == "generated" else "photos")
                cells.append(str(cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds)))
            print(f"| {name} | {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
