"""The kinds of frozen auxiliaries: what each needs, and how it becomes a distribution over tokens.

Notable:
- an auxiliary is a language model or is counted on the shards. `training/auxiliary.py` finds, loads and checks the
  model; a kind says which head it has, how its tokenizer may differ from the shards', and what wraps it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from fast_electra.errors import ModelError
from fast_electra.parts import Part

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from fast_electra.corruption.auxiliary import Auxiliary, Candidates
    from fast_electra.data.shards import TokenStream
    from fast_electra.models.build import Head


@dataclass(frozen=True)
class Use:
    """How a model is used: on which rows, where, and with which special tokens."""

    by_document: bool
    """tokens see their own document only"""
    mask_id: int
    sentinels: list[int]
    """ids of the sentinels, of `AuxiliaryConfig.sentinels`"""
    candidates: "Candidates"
    device: "torch.device"
    dtype: "torch.dtype"


class AuxiliaryConfig(Part):
    """The frozen auxiliary of `fast_electra`: anything that gives a distribution over the vocabulary at a position.

    A part that is a model gives `head` and `wrap`; one that is counted gives `count`.
    """

    default_kind: ClassVar[str] = "auto"
    model: str | None = None
    """a run, a folder with a Transformers model, or a hub name; of no use to unigram, ngram and uniform"""
    checkpoint: int | None = Field(default=None, ge=1)
    """the update of the auxiliary's run whose weights are used; empty: its last"""
    layers: int | None = Field(default=None, ge=1)
    """use its first layers only; empty: all"""

    is_counted: ClassVar[bool] = False
    """whether it is a table of counts and no model"""
    is_baseline: ClassVar[bool] = False
    """whether it is one of the baselines that auxiliaries are compared with"""
    head: ClassVar["Head"]
    """of the model"""
    reads_mask: ClassVar[bool] = False
    """whether it reads [MASK]: its tokenizer must then be the shards' in every respect, and its cost is known"""
    keeps_documents_apart: ClassVar[bool] = True
    """whether it can read a row of several documents one by one"""

    def of_model(self, name: str, model_config: "PreTrainedConfig") -> "AuxiliaryConfig":
        """The kind for a model: itself, unless it is `auto`.

        Raises:
            ModelError: such a model can't be used so.
        """
        return self

    def sentinels(self, name: str, tokenizer: "PreTrainedTokenizerBase", slots: int) -> list[int]:
        """Ids of its own tokens that stand for masked spans, for `slots` of them; they are never drawn.

        Raises:
            ModelError: it has too few.
        """
        return []

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        """The model in use: frozen, on the device."""
        raise NotImplementedError

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        """A table of counts over the training split, of the tokens that may be drawn."""
        raise NotImplementedError


class AutoAuxiliary(AuxiliaryConfig):
    """The frozen auxiliary of `fast_electra`: masked_lm, causal_lm or span_corruption, by the model's class."""

    kind: Literal["auto"] = "auto"
    reads_mask = True  # as far as is known before the model is

    def of_model(self, name: str, model_config: "PreTrainedConfig") -> AuxiliaryConfig:
        settings = self.model_dump(exclude={"kind"})
        if model_config.is_encoder_decoder:
            return SpanCorruptionAuxiliary(**settings)
        architecture = (model_config.architectures or ["ForMaskedLM"])[0]
        if architecture.endswith(("ForCausalLM", "LMHeadModel")):
            return CausalLMAuxiliary(**settings)
        # An encoder without a head, and other heads: load_model says what is missing. ELECTRA's discriminator has none.
        if architecture.endswith(("ForMaskedLM", "Model")) or (architecture == "BertForPreTraining"):
            return MaskedLMAuxiliary(**settings)
        raise ModelError(
            f"the auxiliary {name} is a {architecture}, which is not a language model: give one that predicts tokens "
            "(…ForMaskedLM, …ForCausalLM, or a T5-like …ForConditionalGeneration)."
        )


class _OneStack(AuxiliaryConfig):
    def of_model(self, name: str, model_config: "PreTrainedConfig") -> Self:
        if model_config.is_encoder_decoder:
            raise ModelError(
                f"auxiliary.kind={self.kind} needs a model of one stack, and {name} is an encoder-decoder "
                f"({model_config.model_type}): use span_corruption or prefix_lm."
            )
        return self


class _EncoderDecoder(AuxiliaryConfig):
    head = "seq2seq_lm"
    keeps_documents_apart = False

    def of_model(self, name: str, model_config: "PreTrainedConfig") -> Self:
        if not model_config.is_encoder_decoder:
            raise ModelError(
                f"auxiliary.kind={self.kind} needs an encoder-decoder, and {name} is a {model_config.model_type} "
                "without: use causal_lm or masked_lm."
            )
        return self


class MaskedLMAuxiliary(_OneStack):
    """A masked language model."""

    kind: Literal["masked_lm"] = "masked_lm"
    head = "mlm"
    reads_mask = True

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        from fast_electra.corruption.auxiliary import MaskedLanguageModel
        from fast_electra.models.masked_lm import MaskedLM

        return MaskedLanguageModel(
            MaskedLM(model, use.by_document).to(use.device).freeze(use.dtype), use.mask_id, use.candidates
        )


class CausalLMAuxiliary(_OneStack):
    """A causal language model."""

    kind: Literal["causal_lm"] = "causal_lm"
    head = "causal_lm"

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        from fast_electra.corruption.auxiliary import CausalLanguageModel
        from fast_electra.models.other_lm import CausalLM

        return CausalLanguageModel(CausalLM(model, use.by_document).to(use.device).freeze(use.dtype), use.candidates)


class PrefixLMAuxiliary(_EncoderDecoder):
    """An encoder-decoder that goes on with a prefix."""

    kind: Literal["prefix_lm"] = "prefix_lm"

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        from fast_electra.corruption.auxiliary import PrefixLanguageModel
        from fast_electra.models.other_lm import EncoderDecoderLM

        return PrefixLanguageModel(EncoderDecoderLM(model).to(use.device).freeze(use.dtype), use.candidates)


class SpanCorruptionAuxiliary(_EncoderDecoder):
    """An encoder-decoder that was trained on span corruption, such as T5."""

    kind: Literal["span_corruption"] = "span_corruption"

    def sentinels(self, name: str, tokenizer: "PreTrainedTokenizerBase", slots: int) -> list[int]:
        numbered = {
            int(found[1]): number
            for token, number in tokenizer.get_vocab().items()
            if (found := re.fullmatch(r"<extra_id_(\d+)>", token))
        }
        if not numbered:
            raise ModelError(
                f"the auxiliary {name} has no sentinels (<extra_id_0>, …), so it was not trained on span corruption: "
                "use auxiliary.kind=prefix_lm, or another model."
            )
        if slots > len(numbered):
            raise ModelError(
                f"a row may have {slots} masked spans, and the auxiliary {name} has {len(numbered)} sentinels: "
                "shorten the rows (data.length), or lower corruption.masking.rate."
            )
        return [numbered[number] for number in sorted(numbered)]

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        import torch

        from fast_electra.corruption.auxiliary import SpanCorruptionModel
        from fast_electra.models.other_lm import EncoderDecoderLM

        wrapped = EncoderDecoderLM(model).to(use.device).freeze(use.dtype)
        return SpanCorruptionModel(wrapped, torch.tensor(use.sentinels, device=use.device), use.candidates)


class UnigramAuxiliary(AuxiliaryConfig):
    """Token frequencies, whatever stands around a position."""

    kind: Literal["unigram"] = "unigram"
    is_counted = True
    is_baseline = True

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        from fast_electra.corruption.counted import Unigram, unigram_log_probabilities

        return Unigram(unigram_log_probabilities(stream, allowed_V).to(device))


class NGramAuxiliary(AuxiliaryConfig):
    """Interpolated bigrams of both neighbours."""

    kind: Literal["ngram"] = "ngram"
    is_counted = True

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        from fast_electra.corruption.counted import NGram

        return NGram.count(stream, allowed_V, device)


class UniformAuxiliary(AuxiliaryConfig):
    """Every token alike."""

    kind: Literal["uniform"] = "uniform"
    is_counted = True
    is_baseline = True

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        from fast_electra.corruption.counted import Unigram, uniform_log_probabilities

        return Unigram(uniform_log_probabilities(allowed_V).to(device))
