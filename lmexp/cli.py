"""The verbs of the command line. Each imports what it needs when it is called: ``lmexp --help`` is instant."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lmexp import __version__
from lmexp.bench.arguments import add_benchmarks
from lmexp.errors import UserError
from lmexp.signals import take_stops_as_interrupts

_RUN_HELP = "train one model, or sweep many with -m (a Hydra application: lmexp run --help)"
_INTERACTIVE_HELP = "read prompts from the terminal, one a line; each stands alone, nothing is remembered between them"
_WITNESSES = """\
The times in lock.json come from this machine's clock, which proves nothing to others. What does:

  a git commit       git add experiments/NAME && git commit, and push it somewhere that others can see
  a signed tag       git tag -s NAME-locked && git push --tags
  a time stamp       an authority's signed word (RFC 3161) on the hash that `lmexp plan lock` prints:
                       openssl ts -query -sha256 -cert -digest HASH -out lock.tsq
                       curl -H 'Content-Type: application/timestamp-query' --data-binary @lock.tsq URL > lock.json.tsr
                     with URL that of an authority you and your readers trust; lay the answer beside lock.json, and the
                     authority's certificates there too, as lock.json.tsr.pem
  the digest         `lmexp plan verify` prints one hash over all runs that count; send it to someone

`lmexp plan verify NAME` shows and checks the first three.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 a run failed, 2 a mistake of the user's, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and given[:1] in (["run"], ["generate"]):
        from lmexp import platform

        platform.start_anew()
    take_stops_as_interrupts()
    try:
        return _dispatch(given)
    except UserError as error:
        print(f"lmexp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; what was measured is kept, and the same command does what is missing" if given[:1] == ["run"] else ""
        print(f"lmexp: interrupted{kept}.", file=sys.stderr)
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
    parsed, rest = _parser().parse_known_args(given)
    if rest:
        _take_late_overrides(parsed, rest)
    command: Callable[[Any], int] = parsed.command
    return command(parsed)


def _take_late_overrides(parsed: argparse.Namespace, rest: list[str]) -> None:
    """Add the overrides that follow an option, which argparse leaves over."""
    if "overrides" not in parsed or any("=" not in item or item.startswith("-") for item in rest):
        raise UserError(f"unrecognized arguments: {' '.join(rest)}; see `lmexp --help`.")
    parsed.overrides += rest


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one sentence, as every other part does."""

    def error(self, message: str) -> Any:
        raise UserError(f"{message}; see `{self.prog} --help`.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lmexp", description="A laboratory for small language models on MLX.")
    parser.add_argument("--version", action="version", version=f"lmexp {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    verbs.add_parser("run", help=_RUN_HELP, add_help=False)
    _add_plan(verbs.add_parser("plan", help="list, show, lock, amend or verify plans"))
    _with_plan(verbs.add_parser("status", help="each cell of a plan: done, failed, running or missing"), _status)
    _with_plan(verbs.add_parser("report", help="report.html, verdicts.json and tables of a plan"), _report)
    _add_generate(verbs.add_parser("generate", help="sample from a finished run"))
    add_benchmarks(verbs.add_parser("bench", help="how fast things are here, side by side with plainer code"), _bench)
    verbs.add_parser("doctor", help="what is fast here, what is missing").set_defaults(command=_doctor)
    return parser


def _add_plan(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="every plan, whether it is locked, its question").set_defaults(command=_plan_list)
    _with_plan(
        actions.add_parser("show", help="one plan: its file, what its tests can find, its lock, what it lacks for one"),
        _plan_show,
        overrides=False,
    )
    lock = actions.add_parser(
        "lock",
        help="write down a plan and the config of every cell, before the runs that are to count",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_WITNESSES,
    )
    _with_plan(lock, _plan_lock, results_only=True)
    amend = actions.add_parser("amend", help="write down a change to a locked plan, and why")
    amend.add_argument("--reason", required=True, metavar="TEXT", help="why, in words that others can read")
    _with_plan(amend, _plan_amend, results_only=True)
    verify = actions.add_parser("verify", help="recompute all that a lock promises; exit code 1 when anything is wrong")
    _with_plan(verify, _plan_verify, results_only=True)


def _with_plan(
    parser: argparse.ArgumentParser,
    command: Callable[[Any], int],
    overrides: bool = True,
    results_only: bool = False,
) -> None:
    parser.add_argument("name", metavar="NAME", help="a plan (lmexp plan list)")
    runs = "the overrides that the runs were started with, such as budget.seconds=10 or paths.results=DIR"
    if results_only:
        parser.add_argument("overrides", nargs="*", metavar="paths.results=DIR", help="where the runs are (results)")
    elif overrides:
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=runs)
    parser.set_defaults(command=command)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    from lmexp.decoding.options import Sampling

    usual = Sampling()
    model = "a run's folder, a folder in Hugging Face's format, or a hub id"
    parser.add_argument("run", metavar="RUN", help=model)
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="text to continue; may be given repeatedly")
    parser.add_argument("--interactive", action="store_true", help=_INTERACTIVE_HELP)
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens to add (default: %(default)s)")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be given repeatedly")
    chance = parser.add_argument_group("chance", "in the order in which they act")
    chance.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1, tokens seen become less likely")
    chance.add_argument(
        "--temperature", type=float, metavar="X", help=f"0 takes the likeliest (default: {usual.temperature})"
    )
    chance.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest only")
    chance.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest that add up to P only")
    chance.add_argument("--min-p", type=float, metavar="P", help="draw from those P times as likely as the likeliest")
    chance.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text (default: 0)")
    several = parser.add_argument_group("several texts").add_mutually_exclusive_group()
    several.add_argument("--samples", type=int, metavar="N", help="N texts for each prompt")
    several.add_argument("--best-of", type=int, metavar="N", help="of N texts the one that the model finds likeliest")
    several.add_argument("--majority", type=int, metavar="N", help="of N texts the first with the commonest answer")
    several.add_argument("--beams", type=int, metavar="N", help="search the likeliest text, N at a time; no chance")
    parser.add_argument("--answer", metavar="REGEX", help="where --majority finds an answer (default: the last line)")
    parser.add_argument(
        "--draft", metavar="RUN", help=f"{model}, of the same tokenizer, that guesses ahead; or `lookup`"
    )
    parser.add_argument("--draft-tokens", type=int, metavar="K", help="tokens that it guesses at a time (default: 4)")
    parser.set_defaults(command=_generate)


def _plan_list(parsed: argparse.Namespace) -> int:
    from lmexp.lock import state
    from lmexp.plan import find_plans, parse_plan

    for name, path in sorted(find_plans().items()):
        try:
            plan = parse_plan(path)
        except UserError as error:  # the other plans are still worth listing
            print(f"{name:<17} cannot be read: {error}")
            continue
        size = f"{len(plan.arms)} arms x {len(plan.seeds)} seeds"
        print(f"{name:<17} {size:<18} {state(plan):<13} {plan.question}")
    return 0


def _plan_show(parsed: argparse.Namespace) -> int:
    from lmexp.preregister import show_plan

    return show_plan(parsed.name)


def _plan_lock(parsed: argparse.Namespace) -> int:
    from lmexp.preregister import lock_plan

    return lock_plan(parsed.name, parsed.overrides)


def _plan_amend(parsed: argparse.Namespace) -> int:
    from lmexp.preregister import amend_plan

    return amend_plan(parsed.name, parsed.reason, parsed.overrides)


def _plan_verify(parsed: argparse.Namespace) -> int:
    from lmexp.verify import print_verification

    return print_verification(parsed.name, parsed.overrides)


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
    from lmexp.writing import print_texts

    try:
        return print_texts(parsed)
    except KeyboardInterrupt:  # the text so far is what was asked for
        print("\nlmexp: interrupted.", file=sys.stderr)
        return 130


def _bench(parsed: argparse.Namespace) -> int:
    from lmexp.bench.harness import bench

    return bench(parsed)


def _doctor(parsed: argparse.Namespace) -> int:
    from lmexp import platform

    return 0 if platform.print_doctor() else 1


if __name__ == "__main__":
    sys.exit(main())
