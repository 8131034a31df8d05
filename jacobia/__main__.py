"""The command line: `python -m jacobia demo` and `python -m jacobia explain`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from jacobia import __version__, _command, _demo


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jacobia", description="Lazy Jacobians for JAX.")
    parser.add_argument("--version", action="version", version=f"jacobia {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="which pixels move the score of a digit? (takes some seconds)",
        description="Trains a small network on handwritten digits and draws which pixels move the score of "
        'a class, from single rows of its Jacobian. Needs: pip install "jacobia[demo]"',
    )
    demo.add_argument("--out", default="sensitivities.png", help="picture to write (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    _command.add_to(commands)
    options = parser.parse_args(argv)

    if options.command == "explain":
        try:
            print(_command.explain(options))
        except _command.Refused as error:
            print(error, file=sys.stderr)
            return 2
        return 0
    try:
        report = _demo.run(options.out, seed=options.seed)
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    print(_demo.describe(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
