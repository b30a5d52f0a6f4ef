"""One run in this process, as a person sees it: a bar while it trains, then what came out and what to type next."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lmexp import results
from lmexp.config import FrozenRun, RunConfig
from lmexp.data import load_dataset, unigram_bits_per_byte
from lmexp.decoding.options import Sampling
from lmexp.display import RunBar, duration, rate
from lmexp.errors import UserError
from lmexp.generate import load_run, stream_text
from lmexp.model.spec import ADDED_POSITIONS
from lmexp.run import build_model, make_judge, run

# Cooler than the model's own distribution: a minute of training leaves much doubt, and a sample is there to be read.
_SAMPLE_TOKENS, _SAMPLING = 130, Sampling(temperature=0.6, top_k=40)


def run_with_summary(frozen: FrozenRun) -> int:
    """Carry out one run, or recall it when it is done already; return the exit code.

    Raises:
        UserError: another process is at this very run, or the results folder cannot be written.
    """
    results.make_writable(frozen.folder)
    console = Console()
    with results.claim(frozen.folder) as ours:
        if not ours:
            raise UserError(f"Another process is at this run ({frozen.folder}); wait for it, or choose another seed.")
        row = _recall(frozen, console)
        if row is None:
            with RunBar() as bar:
                row = run(frozen, bar)
    if row["status"] != "ok":
        console.print(f"[red]{row['status']}[/]: {row['error']}", highlight=False)
        console.print(f"What it was doing: {frozen.folder / results.ERROR_FILE}", highlight=False)
        return 1
    summarise(frozen, row, console)
    return 0


def _recall(frozen: FrozenRun, console: Console) -> dict[str, Any] | None:
    """Return the row of a run that is done: a run is a function of its config, so it is not trained twice."""
    row = results.read_row(frozen.folder) if frozen.is_done else None
    if row is not None:
        console.print(
            f"This run was done at {row['started_at']}; here is what came out. To run it again, move {frozen.folder} "
            f"away; to run another, choose another seed: {_with_seed(frozen.config, row['seed'] + 1)}",
            highlight=False,
        )
    elif damaged := results.damaged_files(frozen.folder):
        console.print(f"{damaged[-1]} was damaged; it is set aside, and the run is done again.", highlight=False)
    return row


def _with_seed(config: RunConfig, seed: int) -> str:
    cell = "..." if config.plan_sha256 is None else f"experiment={config.experiment} arm={config.arm}"
    return f"lmexp run {cell} seed={seed}"


def summarise(frozen: FrozenRun, row: dict[str, Any], console: Console) -> None:
    """Print the result against its baselines, a sample, where the rows lie, and what to type next."""
    if frozen.config.decode.n_tokens is None:
        console.print(_scores(frozen, row))
        console.print(_facts(row), highlight=False)
        console.print(Panel(Text(_sample(frozen)), title="a sample", title_align="left", width=min(console.width, 88)))
    else:
        console.print(_costs(frozen.config, row))
        console.print(_size(row) + ", as they start out: nothing was trained.", highlight=False)
    console.print(f"Rows: {frozen.folder}", highlight=False)
    console.print("Next:", style="bold")
    for command in _next_commands(frozen):
        console.print(f"  {command}", highlight=False)


def _sample(frozen: FrozenRun) -> str:
    model, tokenizer = load_run(frozen.folder)
    pieces = stream_text(model, tokenizer, "\n", _SAMPLE_TOKENS, _SAMPLING)
    return "".join(pieces).strip()


def _scores(frozen: FrozenRun, row: dict[str, Any]) -> Table:
    dataset = load_dataset(frozen.config.data)
    model = build_model(frozen.config, dataset)
    untrained = make_judge(frozen.config, dataset, model, dataset.val, compiled=False)().bits_per_byte
    table = Table(title=f"{row['arm']}, seed {row['seed']}", title_justify="left", title_style="bold")
    table.add_column("bits per byte of text held out")
    table.add_column("val", justify="right")
    table.add_column("test", justify="right")
    table.add_row("untrained", f"{untrained:.3f}", "")
    table.add_row("unigram (how often each token occurs)", f"{unigram_bits_per_byte(dataset):.3f}", "")
    table.add_row(Text("trained", style="bold green"), f"{row['val_bpb']:.3f}", f"{row['test_bpb']:.3f}")
    if dataset.entropy_bits_per_byte is not None:
        table.add_row("entropy of the language (no model can beat it)", f"{dataset.entropy_bits_per_byte:.3f}", "")
    return table


def _costs(config: RunConfig, row: dict[str, Any]) -> Table:
    """Return a table of what the generation of one sequence cost."""
    table = Table(title=f"{row['arm']}, seed {row['seed']}", title_justify="left", title_style="bold")
    table.add_column(f"one sequence of {config.decode.n_tokens:,} tokens")
    table.add_column("", justify="right")
    table.add_row("generated", f"{row['decode_tokens_per_second']:,.1f} tokens/s")
    table.add_row("peak memory, weights included", _mebibytes(row["decode_peak_memory_bytes"]))
    table.add_row("cache per token and layer", f"{row['cache_bytes_per_token_per_layer']:,.0f} bytes")
    if row.get("longest_length_tokens") is not None:  # without a limit it was not asked
        limit = _mebibytes(config.decode.memory_limit_bytes or 0)
        is_bound = (
            config.model.position in ADDED_POSITIONS and row["longest_length_tokens"] == config.data.context_length
        )
        why = " (it has no positions for more)" if is_bound else ""
        table.add_row(f"longest sequence within {limit}", f"{row['longest_length_tokens']:,} tokens{why}")
    return table


def _mebibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"


def _size(row: dict[str, Any]) -> str:
    return f"{row['n_params']:,} parameters ({row['n_params_non_embedding']:,} without embeddings)"


def _facts(row: dict[str, Any]) -> str:
    size = _size(row)
    work = f"{row['steps']:,} steps, {row['tokens']:,} tokens in {duration(row['train_seconds'])} of training"
    best = (
        ""
        if row["step_at_best"] == row["steps"]
        else f"; best val {row['val_bpb_best']:.3f} at {row['step_at_best']:,}"
    )
    return f"{size}; {work}, {rate(row['tokens_per_second'])}{best}."


def _next_commands(frozen: FrozenRun) -> Iterator[str]:
    if frozen.config.decode.n_tokens is None:  # else there are no weights
        prompt = ' --prompt "ROMEO:"' if "shakespeare" in frozen.config.data.corpus else ""
        yield f"lmexp generate {frozen.folder}{prompt}"
    if frozen.config.experiment == "quickstart":
        yield "lmexp run model=llama_small budget.seconds=120"
        yield "lmexp run -m experiment=gpt_to_llama          (18 runs of five minutes; stop and resume at will)"
    elif frozen.config.plan_sha256:
        yield f"lmexp run -m experiment={frozen.config.experiment}"
        yield f"lmexp status {frozen.config.experiment}"
    else:
        yield "lmexp run -m ... seed=0,1,2                   (the same, over seeds)"
