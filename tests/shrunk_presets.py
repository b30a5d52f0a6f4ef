"""Every preset as a tiny model of the same making: its choices stay, its sizes give way to distinct small ones."""

import os
from dataclasses import replace

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_specs import GPT

from lmexp.config import spec_from
from lmexp.files import installed_folder
from lmexp.model.parts import DeltaSpec, ExpertsSpec, LatentSpec
from lmexp.model.spec import ModelSpec


def shrunk_presets() -> dict[str, ModelSpec]:
    """Return each shrunk preset by a name; those that differ in size alone are one."""
    specs: dict[str, ModelSpec] = {}
    folder = installed_folder("conf")
    with initialize_config_dir(os.fspath(folder), version_base="1.3"):
        for path in sorted((folder / "model").glob("[!_]*.yaml")):
            values = OmegaConf.to_container(compose(overrides=[f"+model={path.stem}"]).model)
            spec = shrunk(spec_from(ModelSpec, values))
            if spec not in specs.values():
                specs[f"preset {path.stem}"] = spec
    return specs


def shrunk(spec: ModelSpec) -> ModelSpec:
    """Return the spec with small sizes of our own wherever it states or implies one."""
    has_own_width = spec.head_width is not None or spec.rope.share < 1
    return replace(
        spec,
        n_layers=2,
        layers=list(dict.fromkeys(spec.layers)),  # one of each kind: deep random models only amplify roundings
        d_model=GPT.d_model,
        n_heads=6,
        n_kv_heads=None if spec.n_kv_heads is None else 3,
        head_width=8 if has_own_width else None,
        window=None if spec.window is None else 5,
        ffn_expansion=2.0,
        ffn_width=None if spec.ffn_width is None else 22,
        rope=replace(spec.rope, base=100.0, original_context=None if spec.rope.original_context is None else 40),
        mla=_shrunk_latent(spec.mla),
        delta=_shrunk_delta(spec.delta),
        experts=_shrunk_experts(spec.experts),
    )


def _shrunk_latent(mla: LatentSpec) -> LatentSpec:
    return LatentSpec(
        kv_rank=10,
        query_rank=None if mla.query_rank is None else 9,
        rope_width=6,
        value_width=None if mla.value_width is None else 11,
    )


def _shrunk_delta(delta: DeltaSpec) -> DeltaSpec:
    return DeltaSpec(
        key_heads=None if delta.key_heads is None else 2,
        value_heads=None if delta.value_heads is None else 4,
        key_width=None if delta.key_width is None else 7,
        value_width=None if delta.value_width is None else 5,
        convolution_width=delta.convolution_width,
    )


def _shrunk_experts(experts: ExpertsSpec) -> ExpertsSpec:
    is_grouped = experts.n_groups > 1
    return replace(
        experts,
        n_experts=8 if experts.n_experts else 0,
        n_active=2 if experts.n_active == 2 else 3,
        n_shared=min(experts.n_shared, 2),
        width=None if experts.width is None else 13,
        n_dense_layers=min(experts.n_dense_layers, 1),
        n_groups=4 if is_grouped else 1,
        n_active_groups=2 if is_grouped else 1,
    )
