"""The settings of the frozen auxiliary, one class for each `auxiliary.kind`; `auxiliary.py` has what they compute.

Notable:
- an auxiliary is a language model or a table of counts over the shards. `training/auxiliary.py` finds, loads and checks
  the model. A kind says which head the model has, how its tokenizer may differ from the shards', and which class of
  `auxiliary.py` wraps it.
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
    """What a model needs to be used as an auxiliary."""

    by_document: bool
    """whether tokens attend only to their own document"""
    mask_id: int
    sentinels: list[int]
    """ids from `AuxiliaryConfig.sentinels`"""
    candidates: "Candidates"
    device: "torch.device"
    dtype: "torch.dtype"


class AuxiliaryConfig(Part):
    """The frozen auxiliary of `fast_electra`: anything that gives a distribution over the vocabulary at a position.

    A kind that is a model defines `head` and `wrap`; a kind that is counted sets `is_counted` and defines `count`.
    """

    default_kind: ClassVar[str] = "auto"
    model: str | None = None
    """a run, a folder with a Transformers model, or a hub name; unigram, ngram and uniform do not use it"""
    checkpoint: int | None = Field(default=None, ge=1)
    """the update of the auxiliary's run whose weights are used; empty: the last"""
    layers: int | None = Field(default=None, ge=1)
    """how many of its first layers are used; empty: all"""

    is_counted: ClassVar[bool] = False
    """whether it is a table of counts, not a model"""
    is_baseline: ClassVar[bool] = False
    """whether it is one of the baselines that auxiliaries are compared with"""
    head: ClassVar["Head"]
    """the model's head"""
    reads_mask: ClassVar[bool] = False
    """whether it reads [MASK]: its tokenizer must then equal the shards', and its cost is known"""
    keeps_documents_apart: ClassVar[bool] = True
    """whether it can keep the documents of a row apart"""

    def of_model(self, name: str, model_config: "PreTrainedConfig") -> "AuxiliaryConfig":
        """The settings for a model: these, unless the kind is `auto`.

        Raises:
            ModelError: this kind cannot use such a model.
        """
        return self

    def sentinels(self, name: str, tokenizer: "PreTrainedTokenizerBase", slots: int) -> list[int]:
        """Ids of the model's own tokens that replace masked spans; they are never drawn as replacements.

        Args:
            name: of the model, for errors.
            tokenizer: of the model.
            slots: the largest number of masked spans in a row.

        Raises:
            ModelError: the tokenizer has too few.
        """
        return []

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        """The model as an auxiliary: frozen, on the device."""
        raise NotImplementedError

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        """The auxiliary, counted on the training split; `allowed_V` says which tokens may be drawn."""
        raise NotImplementedError


class AutoAuxiliary(AuxiliaryConfig):
    """The frozen auxiliary of `fast_electra`: masked_lm, causal_lm or span_corruption, by the model's class."""

    kind: Literal["auto"] = "auto"
    stays_on_device = True
    reads_mask = True  # the best guess before the model is known

    def of_model(self, name: str, model_config: "PreTrainedConfig") -> AuxiliaryConfig:
        settings = self.model_dump(exclude={"kind"})
        if model_config.is_encoder_decoder:
            return SpanCorruptionAuxiliary(**settings)
        architecture = (model_config.architectures or ["ForMaskedLM"])[0]
        if architecture.endswith(("ForCausalLM", "LMHeadModel")):
            return CausalLMAuxiliary(**settings)
        # load_model says what is missing from an encoder without a head. The discriminator of ELECTRA has no such head.
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
    stays_on_device = True
    head = "mlm"
    reads_mask = True

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        from fast_electra.corruption.auxiliary import MaskedLanguageModel
        from fast_electra.models.masked_lm import MaskedLM

        wrapped = MaskedLM(model, use.by_document).to(use.device).freeze(use.dtype)
        return MaskedLanguageModel(wrapped, use.candidates, use.mask_id)


class CausalLMAuxiliary(_OneStack):
    """A causal language model."""

    kind: Literal["causal_lm"] = "causal_lm"
    stays_on_device = True
    head = "causal_lm"

    def wrap(self, model: "PreTrainedModel", use: Use) -> "Auxiliary":
        from fast_electra.corruption.auxiliary import CausalLanguageModel
        from fast_electra.models.other_lm import CausalLM

        return CausalLanguageModel(CausalLM(model, use.by_document).to(use.device).freeze(use.dtype), use.candidates)


class PrefixLMAuxiliary(_EncoderDecoder):
    """An encoder-decoder that continues a prefix."""

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
        return SpanCorruptionModel(wrapped, use.candidates, torch.tensor(use.sentinels, device=use.device))


class UnigramAuxiliary(AuxiliaryConfig):
    """Token frequencies, without context."""

    kind: Literal["unigram"] = "unigram"
    is_counted = True
    is_baseline = True

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        from fast_electra.corruption.counted import Unigram, unigram_log_probabilities

        return Unigram(unigram_log_probabilities(stream, allowed_V).to(device))


class NGramAuxiliary(AuxiliaryConfig):
    """Interpolated bigrams with both neighbours."""

    kind: Literal["ngram"] = "ngram"
    is_counted = True

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        from fast_electra.corruption.counted import NGram

        return NGram.count(stream, allowed_V, device)


class UniformAuxiliary(AuxiliaryConfig):
    """The same probability for every token."""

    kind: Literal["uniform"] = "uniform"
    is_counted = True
    is_baseline = True

    def count(self, stream: "TokenStream", allowed_V: "Tensor", device: "torch.device") -> "Auxiliary":
        from fast_electra.corruption.counted import Unigram, uniform_log_probabilities

        return Unigram(uniform_log_probabilities(allowed_V).to(device))
