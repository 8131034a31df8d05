"""Run random programs: `python -m tests.fuzz --programs 1000 --seed 0`. The exit status is 1 if a program failed."""

import argparse
import os
import sys
import time
from collections import Counter

import jax

import jacobia

from .check import check, minimal
from .programs import generate, spelled


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=1000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first one; each program has the next number")
    parser.add_argument("--fast", action="store_true", help="do not look for the smallest program that fails")
    asked = parser.parse_args()
    # Compiled once and run once.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    jax.config.update("jax_platforms", "cpu")
    began, compared, failed, rest = time.monotonic(), 0, 0, Counter()
    for seed in range(asked.seed, asked.seed + asked.programs):
        program = generate(seed)
        result = check(program)
        compared += result.compared
        rest.update(f"known: {name}" for name in set(result.known))
        if result.skipped:
            rest[f"skipped: {result.skipped.splitlines()[0]}"] += 1
        if result.failures:
            failed += 1
            report(seed, program, result, asked.fast)
        if seed % 50 == 49:  # compiled programs are not needed again
            jax.clear_caches()
            jacobia.cache_clear()
            print(f"... {seed + 1 - asked.seed} programs, {failed} failed", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{asked.programs} programs from {asked.seed} on, JAX {jax.__version__}: {compared} readings compared, "
          f"{failed} programs failed, {seconds:.0f} s")  # fmt: skip
    for what, count in sorted(rest.items()):
        print(f"  {count} {what}")
    return int(failed > 0)


def report(seed: int, program, result, fast: bool) -> None:
    failure = result.failures[0]
    print(f"--- seed {seed}: {failure.kind} (python -m tests.fuzz --programs 1 --seed {seed})")
    if not fast:
        program, less = minimal(program, failure.kind)
        failure = less or failure
    print(f"read: {failure.session}: {failure.reads}\n{spelled(program)}\n{failure.detail}\n", flush=True)


sys.exit(main())
