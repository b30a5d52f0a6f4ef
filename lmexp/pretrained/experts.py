"""Where the parameters of mixtures of experts come from: one published matrix for each expert, one array of ours."""

from typing import Any

from lmexp.model.spec import ModelSpec
from lmexp.pretrained.llama import ATTENTION, NORMS, outside, read_mistral
from lmexp.pretrained.settings import Settings
from lmexp.pretrained.sources import Sources, renamed, same, stacked

MATRICES = {name: f"{name}_proj" for name in ("gate", "up", "down")}


def read_mixtral(settings: Settings) -> dict[str, Any]:
    """Read a Mixtral's settings (Jiang et al. 2024): a Mistral whose every feed-forward is a mixture."""
    experts = {
        "n_experts": settings["num_local_experts"],
        "n_active": settings["num_experts_per_tok"],
        "scores": "softmax",
        "normalise": True,
        "balance_rate": 0.0,
    }
    return read_mistral(settings) | {"experts": experts}


def mixtral_sources(spec: ModelSpec) -> Sources:
    """Say where each parameter of a Mixtral comes from."""
    table = outside(spec)
    for index in range(spec.n_layers):
        ours, theirs = f"layers.{index}.", f"model.layers.{index}."
        table |= renamed(ATTENTION | NORMS, ["weight"], ours, theirs)
        matrices = {"gate": "w1", "up": "w3", "down": "w2"}
        table |= routed(spec, f"{ours}feedforward.", f"{theirs}block_sparse_moe.", matrices)
    return table


def routed(spec: ModelSpec, ours: str, theirs: str, matrices: dict[str, str]) -> Sources:
    """Say where the router and the routed experts of a layer come from.

    Args:
        spec: gives the number of experts.
        ours: what stands before our names.
        theirs: what stands before theirs.
        matrices: our name of an expert's matrix to theirs.
    """
    table = {f"{ours}router.weight": same(f"{theirs}gate.weight")}
    for our, their in matrices.items():
        names = [f"{theirs}experts.{expert}.{their}.weight" for expert in range(spec.experts.n_experts)]
        table[f"{ours}experts.{our}"] = stacked(names)
    return table


def shared(ours: str, theirs: str) -> Sources:
    """Say where the experts that every token passes come from."""
    return renamed(MATRICES, ["weight"], ours, theirs)
