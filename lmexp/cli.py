"""The verbs of the command line. Each imports what it needs when it is called: ``lmexp --help`` is instant."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmexp import __version__
from lmexp.errors import UserError
from lmexp.signals import take_stops_as_interrupts

_RUN_HELP = "train one model, or sweep many with -m (a Hydra application: lmexp run --help)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a run failed, 2 a mistake of the user's, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    take_stops_as_interrupts()
    try:
        return _dispatch(given)
    except UserError as error:
        print(f"lmexp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "lmexp: interrupted; what was measured is kept, and the same command goes on from there.", file=sys.stderr
        )
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has had enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0


def _dispatch(given: list[str]) -> int:
    if {"-sc", "--shell-completion"} & set(given):
        from lmexp.app import complete

        return complete(given)
    # Everything after `run` belongs to Hydra, its flags included.
    if given[:1] == ["run"]:
        from lmexp.app import run_command

        return run_command(given[1:])
    parsed = _parser().parse_args(given)
    command: Callable[[Any], int] = parsed.command
    return command(parsed)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one sentence, as every other part does."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message}; see `{self.prog} --help`.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lmexp", description="A laboratory for small language models on MLX.")
    parser.add_argument("--version", action="version", version=f"lmexp {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verbs.add_parser("run", help=_RUN_HELP, add_help=False)
    plan = verbs.add_parser("plan", help="list the plans, or show one").add_subparsers(metavar="ACTION", required=True)
    plan.add_parser("list", help="every plan and its question").set_defaults(command=_plan_list)
    _with_plan(plan.add_parser("show", help="one plan: design, hypotheses, tests"), _plan_show, overrides=False)
    _with_plan(verbs.add_parser("status", help="each cell of a plan: done, failed, running or missing"), _status)
    _with_plan(verbs.add_parser("report", help="report.html, verdicts.json and tables of a plan"), _report)
    _add_generate(verbs.add_parser("generate", help="sample from a finished run"))
    verbs.add_parser("doctor", help="what is fast here, what is missing").set_defaults(command=_doctor)
    return parser


def _with_plan(parser: argparse.ArgumentParser, command: Callable[[Any], int], overrides: bool = True) -> None:
    parser.add_argument("name", metavar="NAME", help="a plan (lmexp plan list)")
    if overrides:
        parser.add_argument(
            "overrides",
            nargs="*",
            metavar="KEY=VALUE",
            help="the overrides that the runs were started with, such as budget.seconds=10 or paths.results=DIR",
        )
    parser.set_defaults(command=command)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument("--prompt", default="\n", help="text to continue (default: a new line)")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens to sample (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest (default: %(default)s)")
    parser.add_argument("--top-k", type=int, help="sample from the K likeliest only")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--interactive", action="store_true", help="read prompts from the terminal, one a line")
    parser.set_defaults(command=_generate)


def _plan_list(parsed: argparse.Namespace) -> int:
    from lmexp.plan import find_plans, parse_plan

    for name, path in sorted(find_plans().items()):
        plan = parse_plan(path)
        print(f"{name:<16} {len(plan.arms)} arms x {len(plan.seeds)} seeds   {plan.question}")
    return 0


def _plan_show(parsed: argparse.Namespace) -> int:
    from lmexp.plan import read_plan

    plan = read_plan(parsed.name)
    print(f"# {plan.path}\n# sha256 {plan.sha256}\n\n{plan.path.read_text(encoding='utf-8')}", end="")
    return 0


def _status(parsed: argparse.Namespace) -> int:
    from lmexp.status import print_status

    print_status(parsed.name, parsed.overrides)
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from lmexp.status import write_plan_report

    write_plan_report(parsed.name, parsed.overrides)
    return 0


def _generate(parsed: argparse.Namespace) -> int:
    from lmexp import platform

    platform.prepare()
    from lmexp.generate import load_run, stream_text

    model, tokenizer = load_run(parsed.run)
    options = {"n_tokens": parsed.tokens, "temperature": parsed.temperature, "top_k": parsed.top_k, "seed": parsed.seed}
    for prompt in _prompts(parsed):
        pieces = stream_text(model, tokenizer, prompt, **options)  # checks options before anything is printed
        print(prompt, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    return 0


def _prompts(parsed: argparse.Namespace) -> Any:
    if not parsed.interactive:
        yield parsed.prompt
        return
    print("A line is a prompt; an empty line or Ctrl-D ends.", file=sys.stderr)
    while line := sys.stdin.readline().rstrip("\n"):
        yield line


def _doctor(parsed: argparse.Namespace) -> int:
    from lmexp import platform

    return 0 if platform.print_doctor() else 1


if __name__ == "__main__":
    sys.exit(main())
