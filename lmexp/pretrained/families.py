"""Which published architectures there are: how each one's config.json is read and where its weights go."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from lmexp.model.spec import ModelSpec
from lmexp.pretrained import deepseek, experts, gemma3, gpt2, llama, qwen3_next
from lmexp.pretrained.settings import SpecReader
from lmexp.pretrained.sources import Sources


@dataclass(frozen=True)
class Family:
    """One published architecture.

    Attributes:
        read: from its settings to the choices of a ``ModelSpec``.
        sources: where each of our parameters comes from.
        ignored: regular expressions of published names that hold nothing the model needs; {n_layers} in them is filled.
        context_key: the key of config.json that says how many tokens it reads.
        prefix: of the names; some files hold the decoder alone and leave it out.
    """

    read: SpecReader
    sources: Callable[[ModelSpec], Sources]
    ignored: tuple[str, ...]
    context_key: str = "max_position_embeddings"
    prefix: str = "model."

    def sources_in(self, names: Collection[str], spec: ModelSpec) -> Sources:
        """Say where each parameter comes from in a file of these names."""
        sources = self.sources(spec)
        if any(name.startswith(self.prefix) for name in names):
            return sources
        return {path: source.without(self.prefix) for path, source in sources.items()}

    def ignored_by(self, spec: ModelSpec) -> tuple[str, ...]:
        """Return the patterns of names that hold nothing a model of this spec needs."""
        patterns = (*self.ignored, r"lm_head\.weight") if spec.tie_embeddings else self.ignored
        return tuple(pattern.replace("{n_layers}", str(spec.n_layers)) for pattern in patterns)


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(gpt2.read, gpt2.sources, gpt2.IGNORED, "n_positions", "transformer."),
    "llama": Family(llama.read_llama, llama.sources, llama.IGNORED),
    "mistral": Family(llama.read_mistral, llama.sources, llama.IGNORED),
    "mixtral": Family(experts.read_mixtral, experts.mixtral_sources, llama.IGNORED),
    "gemma3_text": Family(gemma3.read, gemma3.sources, ()),
    "qwen3": Family(llama.read_qwen3, llama.sources, ()),
    "qwen3_next": Family(qwen3_next.read, qwen3_next.sources, qwen3_next.IGNORED),
    "deepseek_v2": Family(deepseek.read_v2, deepseek.sources, llama.IGNORED),
    "deepseek_v3": Family(deepseek.read_v3, deepseek.sources, (*llama.IGNORED, *deepseek.V3_IGNORED)),
}
