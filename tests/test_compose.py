"""From what a user types to frozen runs: what wins, what the hash covers, what every mistake is answered with."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from lmexp import config as config_room
from lmexp.compose import cell_overrides, compose_run, single_overrides
from lmexp.config import from_mapping, load, save, to_mapping
from lmexp.errors import UserError
from lmexp.files import installed_folder
from lmexp.plan import read_plan

GROUPS = ("model", "data", "optimizer", "schedule", "compile", "precision", "budget")
CHOICES = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((installed_folder("conf") / group).glob("[!_]*.yaml"))
    if (group, path.stem) != ("data", "text")  # needs a path; has tests of its own
]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_of_every_group_composes(group, choice):
    run = compose_run([f"{group}={choice}"])
    assert len(run.config.sha256) == 64


@pytest.mark.parametrize("group", GROUPS)
def test_the_choices_of_a_group_have_the_same_keys_and_every_key_is_read(group):
    spec = config_room.SECTIONS[group]
    names = {field.name for field in dataclasses.fields(spec)}
    assert all(field.default is dataclasses.MISSING for field in dataclasses.fields(spec)), (
        "defaults stand in conf/ only"
    )
    for _, choice in (item for item in CHOICES if item[0] == group):
        frozen = getattr(compose_run([f"{group}={choice}"]).config, group)
        assert set(dataclasses.asdict(frozen)) == names


def test_conf_then_base_then_arm_then_command_line():
    plan = read_plan("gpt_to_llama")
    cell = compose_run(cell_overrides(plan, "llama", 2, ["model.n_layers=3"])).config
    assert (cell.model.norm, cell.model.n_kv_heads, cell.model.position) == ("rmsnorm", 4, "rope")
    assert (cell.model.d_model, cell.budget.seconds) == (256, 300)  # from the base
    assert cell.model.n_layers == 3  # from the command line
    assert (cell.arm, cell.seed, cell.experiment) == ("llama", 2, "gpt_to_llama")


def test_the_command_line_makes_a_run_exploratory_and_naming_keys_do_not():
    plan = read_plan("gpt_to_llama")
    for harmless in ([], ["paths.results=elsewhere"], ["budget.seconds=300"]):
        assert compose_run(cell_overrides(plan, "gqa", 0, harmless)).config.overrides == ()
    # Text that stands in the plan's base, but undoes the arm when typed again.
    undone = compose_run(cell_overrides(plan, "gqa", 0, ["model=gpt_small", "model.n_kv_heads=null"])).config
    assert undone.overrides == ("model=gpt_small", "model.n_kv_heads=null")
    changed = compose_run(cell_overrides(plan, "gqa", 0, ["budget.seconds=10"])).config
    assert changed.overrides == ("budget.seconds=10",)
    other_seed = compose_run(cell_overrides(plan, "gqa", 7, [])).config
    assert other_seed.overrides == ("seed=7",)


def test_one_run_of_a_plan_is_the_same_cell_as_in_the_sweep():
    plan = read_plan("gpt_to_llama")
    alone = compose_run(single_overrides(["experiment=gpt_to_llama", "arm=rope", "seed=1"]))
    in_sweep = compose_run(cell_overrides(plan, "rope", 1, []))
    assert alone == in_sweep
    assert alone.folder == Path("results/gpt_to_llama") / f"rope-seed1-{alone.config.sha256[:8]}"


def test_the_hash_covers_what_decides_and_nothing_else(text, tmp_path):
    def sha(*overrides):
        return compose_run(["data=text", f"data.path={text}", *overrides]).config.sha256

    plain = sha()
    assert sha("paths.results=elsewhere") == plain
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text.read_bytes())
    assert sha(f"data.path={copy}") == plain  # the same text in another place
    for change in ("seed=1", "optimizer.lr=0.5", "compile=none", "model.bias=false", "budget.seconds=299"):
        assert sha(change) != plain, change
    copy.write_bytes(text.read_bytes().replace(b"fox", b"dog"))
    assert sha(f"data.path={copy}") != plain


def test_arms_that_are_equal_have_equal_hashes_under_different_names():
    plan = read_plan("gpt_to_llama")
    baseline = compose_run(cell_overrides(plan, "baseline", 0, ["model.position=rope"])).config
    rope = compose_run(cell_overrides(plan, "rope", 0, [])).config
    assert baseline.sha256 == rope.sha256
    assert baseline.run_id != rope.run_id


def test_a_frozen_run_survives_its_file_and_an_edit_is_noticed(tmp_path):
    run = dataclasses.replace(compose_run(["model=llama_tiny", "seed=3"]), folder=tmp_path)
    assert from_mapping(to_mapping(run), tmp_path) == run
    save(run)
    assert load(tmp_path) == run
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    content["optimizer"]["lr"] *= 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="edited after it was frozen"):
        load(tmp_path)
    for damage in ("a: [", "", "- 1", "seed: 3"):
        (tmp_path / "config.yaml").write_text(damage)
        with pytest.raises(UserError, match="is damaged"):
            load(tmp_path)
    with pytest.raises(UserError, match="not a run's folder"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=gpt_smal"], "Unknown choice of model 'gpt_smal': did you mean 'gpt_small'"),
        (["optimiser=adamw"], "Unknown key 'optimiser': did you mean 'optimizer'"),
        (["model.ffnn=swiglu"], "did you mean 'model.ffn'"),
        (["optimizer.options.beta=1"], "did you mean 'optimizer.options.betas'"),
        (["model.ffn=swigloo"], "did you mean 'swiglu'"),
        (["model.n_layers=two"], "model.n_layers must be a whole number"),
        (["optimizer.lr=fast"], "optimizer.lr must be a number"),
        (["model.bias=maybe"], "model.bias must be true or false"),
        (["optimizer.lr=-1e-3"], "optimizer.lr=-0.001 must be above 0"),
        (["optimizer.lr=nan"], "must be above 0"),
        (["budget.seconds=0"], "budget.seconds=0 must be above 0"),
        (["budget.steps=5"], "budget=steps"),
        (["model.n_heads=7"], "model.n_heads=7 does not divide model.d_model=256"),
        (["model.n_kv_heads=3"], "model.n_kv_heads=3 does not divide model.n_heads=8"),
        (["optimizer.micro_batches=5"], "does not divide data.batch_size"),
        (["seed=-1"], "whole number from 0 up"),
        (["seed=one"], "whole number from 0 up"),
        (["data.batch_size=0"], "data.batch_size"),
        (["+model.extra=1"], "Unknown key 'model.extra'"),
        (["data=text", "data.path=nowhere.txt"], "nowhere.txt"),
        (["data=text"], "data.path"),
        (["seed=99999999999999999999"], "below 2**63"),
        (["seed=0,1"], "lmexp run -m seed=0,1"),
        (["model=null"], "cannot be composed"),
        (["paths.results=null"], "paths.results=results"),
        (["paths=1"], "paths"),
        (["+foo=1"], "Unknown key 'foo'"),
        (["model=[a"], "see `lmexp run --help`"),
    ],
)
def test_every_mistake_is_one_sentence_that_names_it(overrides, words):
    with pytest.raises(UserError) as caught:
        compose_run(overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["experiment=gpt_to_lama"], "did you mean 'gpt_to_llama'"),
        (["experiment=gpt_to_llama", "arm=swigl"], "did you mean 'swiglu'"),
        (["experiment=gpt_to_llama"], "choose one with arm=NAME"),
    ],
)
def test_unknown_plans_and_arms_suggest_the_nearest(overrides, words):
    with pytest.raises(UserError, match=words):
        single_overrides(overrides)


def test_a_plan_with_one_arm_needs_no_arm():
    assert "arm=quickstart" in single_overrides(["experiment=quickstart"])
