"""`python -m benchmarks`, from the top level of the repository."""

import argparse
import sys
from pathlib import Path

from benchmarks import bars, peers, report


def _library_and_python(text: str) -> tuple[str, str]:
    library, _, python = text.partition("=")
    if library not in peers.PREPARE or not python:
        known = ", ".join(peers.PREPARE)
        raise argparse.ArgumentTypeError(f"expected one of {known}, then =PYTHON, got {text!r}")
    return library, python


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Time jacobia, fairly.")
    parser.add_argument("what", nargs="?", default="all", choices=["bars", "peers", "all"])
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a record")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md and docs/speed.md")
    parser.add_argument(
        "--python", action="append", default=[], type=_library_and_python, metavar="LIBRARY=PYTHON",
        help="the interpreter that has this library (default: this one); e.g. torch=.venv-torch/bin/python",
    )  # fmt: skip
    parser.add_argument(
        "--only", action="append", default=[], choices=list(bars.BARS), help="this bar; repeat"
    )
    arguments = parser.parse_args()
    if arguments.only and (arguments.write or arguments.what != "bars"):
        parser.error("--only goes with `bars` and without --write: a page shows all bars of one run")
    failed = False
    if arguments.what in ("bars", "all"):
        results = bars.run(arguments.only, arguments.quick)
        failed |= any(r.failed for r in results)
        _show("headlines", report.headlines(results), arguments.write, report.HEADLINES)
        _show("bars", report.bars(results, arguments.quick), arguments.write)
    if arguments.what in ("peers", "all"):
        table = peers.run(dict(arguments.python), arguments.quick)
        _show("peers", report.peers(table, arguments.quick), arguments.write)
    return int(failed)


def _show(section: str, text: str, write: bool, page: Path = report.PAGE) -> None:
    print(text + "\n", flush=True)
    if write:
        report.write(section, text, page)


if __name__ == "__main__":
    sys.exit(main())
