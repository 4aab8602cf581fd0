"""Plan a matrix of 100,000 arms: ``python benchmarks/plan.py`` prints its arms, seconds of the CPU and memory."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

from redcloak import registry
from redcloak.bench.config import MatrixConfig, load
from redcloak.bench.grid import Matrix
from redcloak.bench.plan import plan
from redcloak.parsing import validate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=11, help="trainings of each arm (default %(default)s)")
    parser.add_argument("--subjects", type=int, default=2, help="drawn people (default %(default)s)")
    args = parser.parse_args()
    start = time.process_time()
    full = load("full").model_dump(mode="json", include={"protections", "purifiers"})
    axes = {
        "subjects": [f"drawn:{number}" for number in range(100, 100 + args.subjects)],
        "budgets": [2, 4, 8, 11, 16, 24],
        "seeds": list(range(args.seeds)),
        **full,
    }
    found = plan(Matrix.of(validate(MatrixConfig, axes, "large")), None, 64, Path())
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    stages = sum(row.total for row in found.rows)
    heavy = [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
    print(f"{found.arms} arms, {stages} stages: {seconds:.1f} s of the CPU, {peak:.0f} MB; imported: {heavy or 'none'}")
    print(f"of {len(registry.names('protect'))} protections and {len(registry.names('purify'))} purifiers")


if __name__ == "__main__":
    main()
