"""Can a subject be learned? DreamBooth on clean photos of people the suite has never seen, against the untuned model.

``python benchmarks/learn.py`` uses drawn subjects; add folders of real photos as arguments. Prints identity (cosine to
held-out photos, "no face" counted as 0), faces found and quality, before and after, and the photos' own identity: what
a perfect model would reach. ``--set`` tries other settings of DreamBooth.
"""

from __future__ import annotations

from redcloak.config import Choice
from redcloak.parsing import parse_settings
from redcloak.report.table import Source
from redcloak.stats import cluster_bootstrap
from sweep import config, drawn, options, sweep

ROWS: tuple[tuple[str, str, Source], ...] = (
    ("untuned", "untuned", "generated"), ("personalized", "clean", "generated"), ("photos", "clean", "photos"),
)  # fmt: skip


def main() -> None:
    parser = options(__doc__, "out/learn", seeds=1)
    parser.add_argument("photos", nargs="*", help="folders of photos of one person each, or drawn:N")
    parser.add_argument("--set", action="append", default=[], help="a setting of dreambooth, name=value")
    parser.add_argument("--guidance", type=float, default=None)
    args = parser.parse_args()
    trainer = Choice(name="dreambooth", settings=parse_settings(args.set))
    more = {"guidance": args.guidance} if args.guidance else {}
    none = Choice(name="none")
    configs = [config(photos, args, trainer=trainer, protection=none, **more) for photos in args.photos or drawn(args)]
    done = sweep(configs, lambda b: [b.untuned(), b.arm("clean", "Clean", "", b.clean)], args.out, args.workers)
    print("| subject | pictures | identity | face found | quality |\n|---|---|---|---|---|")
    for name in [*done.arms, "all"]:
        rows = done.scores if name == "all" else done.scores.select(subject=name)
        for title, arm, source in ROWS:
            cells = []
            for metric in ("identity_zero", "face_found", "quality"):
                sample = rows.sample(arm, metric, source)
                cells.append(str(cluster_bootstrap(sample.values, sample.subjects, subclusters=sample.seeds)))
            print(f"| {name} | {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
