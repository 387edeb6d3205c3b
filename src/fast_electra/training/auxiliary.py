"""The auxiliary of a run: found, loaded, compared with the shards, frozen, and measured before it is used.

Notable:
- whatever doesn't fit is refused in one sentence: tokens that mean something else, a model that predicts none, rows too
  long, an augmentation that the model doesn't feel;
- its digest is of the weights that are used: of that checkpoint, of those layers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from fast_electra.config.loading import setting
from fast_electra.config.tree import AuxiliaryConfig, Config
from fast_electra.corruption.auxiliary import (
    Auxiliary,
    Candidates,
    CausalLanguageModel,
    MaskedLanguageModel,
    PrefixLanguageModel,
    SpanCorruptionModel,
    digest,
    measure,
)
from fast_electra.corruption.counted import NGram, Unigram, uniform_log_probabilities, unigram_log_probabilities
from fast_electra.corruption.schedules import Difficulty
from fast_electra.data.shards import TokenShards
from fast_electra.data.tokenizer import fingerprint, load_any_tokenizer, load_tokenizer, vocabulary_size
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.build import Head, load_model, resolve_model, stored_config
from fast_electra.models.inputs import longest_row
from fast_electra.models.layers import truncate
from fast_electra.models.masked_lm import MaskedLM
from fast_electra.models.other_lm import CausalLM, EncoderDecoderLM
from fast_electra.objectives.base import Prepared
from fast_electra.runs.checkpoints import checkpoint_at
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.training.checkpoint_models import read_model
from fast_electra.training.precision import Execution

Kind = Literal["masked_lm", "causal_lm", "prefix_lm", "span_corruption", "unigram", "ngram", "uniform"]

_GENERATOR = "generator"
_HEADS: dict[str, Head] = {
    "masked_lm": "mlm",
    "causal_lm": "causal_lm",
    "prefix_lm": "seq2seq_lm",
    "span_corruption": "seq2seq_lm",
}
# Share of the unigram's perplexity from which on an auxiliary is called no better: a plateau is within a few per cent.
_NO_BETTER = 0.9


@dataclass(frozen=True)
class FoundAuxiliary:
    """Where an auxiliary's model is, and what it is, before its weights are read."""

    name: str
    """as the user gave it"""
    kind: Kind
    source: str
    """a folder or a hub name"""
    tokenizer: PreTrainedTokenizerBase
    """its own"""
    checkpoint: int | None = None
    layers: int | None = None

    def load(self) -> PreTrainedModel:
        """Read the weights: those of the checkpoint that was asked for, and of the layers; in float32.

        Raises:
            ModelError: it predicts no tokens.
            CheckpointError: no such checkpoint.
        """
        if self.checkpoint is None:
            model = load_model(self.source, _HEADS[self.kind])
        else:
            part = _GENERATOR if Path(self.source).name == _GENERATOR else "main"
            checkpoint = checkpoint_at(load_run(Path(self.name)).checkpoints, self.checkpoint)
            model = read_model(checkpoint, part, rounded=False)
        if self.layers is not None:
            truncate(model, self.layers)
        return model


@dataclass(frozen=True)
class LoadedAuxiliary:
    """An auxiliary before it is frozen."""

    kind: Kind
    model: PreTrainedModel | None
    """in float32; None for what is counted"""
    sentinels: list[int]
    """ids of <extra_id_0>, … in order; for span_corruption"""
    excluded_V: Tensor
    """bool: special tokens, and ids that the tokenizer doesn't have"""
    digest: str | None
    """of the weights; None for what is counted, which the shards' own fingerprint fixes"""


def needs_auxiliary(config: Config) -> bool:
    """Whether a run needs the auxiliary itself; with a cache it does only to check the cache, or to copy weights.

    Raises:
        ConfigError: it does, and none is named.
    """
    settings = config.auxiliary
    is_named = settings.model is not None or settings.is_counted
    if not is_named and (config.corruption.cache is None or config.copied_from_auxiliary):
        raise ConfigError(
            "auxiliary.model is not given: name a run, a folder or a hub name of a language model, train one with "
            "objective.kind=mlm, or set auxiliary.kind to ngram or unigram, which need none."
        )
    return is_named


def load_auxiliary(config: Config, shards: TokenShards, tokenizer: PreTrainedTokenizerBase) -> LoadedAuxiliary:
    """The auxiliary of a configuration, its model in float32.

    Args:
        config: `auxiliary` says which.
        shards: what is trained on.
        tokenizer: the shards'.

    Raises:
        ConfigError: none is named, or its settings don't go together.
        ModelError: it predicts no tokens, its tokens are not the shards', or rows are too long for it.
        CheckpointError: no such checkpoint.
    """
    settings = config.auxiliary
    excluded_V = excluded_tokens(tokenizer)
    if settings.is_counted:
        return LoadedAuxiliary(cast(Kind, settings.kind), None, [], excluded_V, None)
    found = find_auxiliary(settings)
    if difference := other_tokens(found, tokenizer):
        raise ModelError(
            f"the auxiliary {found.name} has another tokenizer than the shards {shards.folder} ({difference}): build "
            "the shards with "
            + setting("data.tokenizer.path", resolve_model(found.name))
            + ("" if found.kind == "masked_lm" else ", whose tokenizer needs four special tokens (docs/auxiliaries.md)")
            + "."
        )
    model = found.load()
    longest = longest_row(model.config)
    if longest is not None and config.data.length > longest:
        raise ModelError(
            f"the auxiliary {found.name} takes {longest} tokens, fewer than data.length={config.data.length}: "
            f"set data.length={longest} or less."
        )
    slots = max(1, round(config.corruption.masking.rate * config.data.length))
    return fit_auxiliary(found, model, excluded_V, slots)


def find_auxiliary(settings: AuxiliaryConfig) -> FoundAuxiliary:
    """The auxiliary that `model` of the settings names: a run, a folder or a hub name.

    Raises:
        ModelError: there is no model, it predicts no tokens, or it is of another kind than asked for.
        DataError: it has no tokenizer.
    """
    name = settings.model
    assert name is not None  # `needs_auxiliary` refuses
    source = _folder(name)
    kind = _kind(name, settings.kind, stored_config(source))
    # Only a masked language model needs [MASK] and the others.
    tokenizer = load_tokenizer(source) if kind == "masked_lm" else load_any_tokenizer(source)
    return FoundAuxiliary(name, kind, source, tokenizer, settings.checkpoint, settings.layers)


def fit_auxiliary(found: FoundAuxiliary, model: PreTrainedModel, excluded_V: Tensor, slots: int) -> LoadedAuxiliary:
    """An auxiliary's model, brought to the vocabulary of the text that it is to be used on.

    Args:
        found: what it was loaded from.
        model: `found.load()`; embeddings of ids that no token has are removed.
        excluded_V: bool, tokens that must never be drawn; the sentinels are added.
        slots: the most masked positions of a row.

    Raises:
        ModelError: it lacks embeddings, or sentinels.
    """
    if found.kind == "masked_lm":
        _fit_vocabulary(found.name, model, len(excluded_V))
    sentinels = _sentinels(found, slots) if found.kind == "span_corruption" else []
    excluded_V = excluded_V.clone()
    excluded_V[sentinels] = True
    return LoadedAuxiliary(found.kind, model, sentinels, excluded_V, digest(model.named_parameters()))


def make_auxiliary(
    loaded: LoadedAuxiliary, config: Config, shards: TokenShards, mask_id: int, execution: Execution
) -> Auxiliary:
    """The auxiliary in use: frozen, or counted on the shards where it is a table."""
    if loaded.model is None:
        return count_auxiliary(loaded, shards, execution.device)
    return freeze_auxiliary(loaded, loaded.model, config.data.attention == "document", mask_id, execution)


def count_auxiliary(loaded: LoadedAuxiliary, shards: TokenShards, device: torch.device) -> Auxiliary:
    """A table of counts over the training split."""
    stream, allowed_V = shards.split("train"), ~loaded.excluded_V
    if loaded.kind == "ngram":
        return NGram.count(stream, allowed_V, device)
    uniform = loaded.kind == "uniform"
    table_V = uniform_log_probabilities(allowed_V) if uniform else unigram_log_probabilities(stream, allowed_V)
    return Unigram(table_V.to(device))


def freeze_auxiliary(
    loaded: LoadedAuxiliary, model: PreTrainedModel, by_document: bool, mask_id: int, execution: Execution
) -> Auxiliary:
    """The model of `loaded` on the device, frozen, in the type that the precision gives it.

    Raises:
        ConfigError: documents of a row are to be kept apart, and the model reads a row as one text.
    """
    device, dtype = execution.device, execution.auxiliary_dtype
    candidates = Candidates.of(loaded.excluded_V, device)
    if loaded.kind == "masked_lm":
        return MaskedLanguageModel(MaskedLM(model, by_document).to(device).freeze(dtype), mask_id, candidates)
    if loaded.kind == "causal_lm":
        return CausalLanguageModel(CausalLM(model, by_document).to(device).freeze(dtype), candidates)
    if by_document:
        raise ConfigError(
            f"data.attention=document is not possible with auxiliary.kind={loaded.kind}, which reads a row as "
            "one text: use data.attention=packed."
        )
    wrapped = EncoderDecoderLM(model).to(device).freeze(dtype)
    if loaded.kind == "prefix_lm":
        return PrefixLanguageModel(wrapped, candidates)
    return SpanCorruptionModel(wrapped, torch.tensor(loaded.sentinels, device=device), candidates)


@torch.no_grad()
def check_auxiliary(
    auxiliary: Auxiliary, loaded: LoadedAuxiliary, config: Config, shards: TokenShards, batches: Sequence[Prepared]
) -> tuple[dict[str, float], list[str]]:
    """Measure an auxiliary beside the unigram baseline, and see that the augmentation acts on it.

    Args:
        auxiliary: as it will be used.
        loaded: what it was made of.
        config: the run's.
        shards: the unigram baseline is counted on their training split.
        batches: some validation rows, on the auxiliary's device.

    Returns:
        the measures (`corruption.auxiliary.measure`), and a sentence about them, with a warning behind it where the
        auxiliary is no better than the baseline.

    Raises:
        ConfigError: the augmentation changes nothing.
    """
    _refuse_augmentation_without_effect(auxiliary, config, batches[0])
    unigram_V = unigram_log_probabilities(shards.split("train"), ~loaded.excluded_V)
    found = measure(auxiliary, ((b.batch, b.masked) for b in batches), shards.most_frequent_token(), unigram_V)
    rows = sum(len(b.batch.ids) for b in batches)
    sentences = [
        f"checked on {rows} held-out rows, the auxiliary predicts {found['masked_accuracy']:.1%} of masked tokens "
        f"(most frequent token: {found['unigram_accuracy']:.1%}), perplexity {found['perplexity']:.4g} "
        f"(unigram: {found['unigram_perplexity']:.4g})."
    ]
    better = found["masked_accuracy"] > found["unigram_accuracy"]
    better &= found["perplexity"] < _NO_BETTER * found["unigram_perplexity"]
    if not better and loaded.kind not in ("unigram", "uniform"):
        sentences.append(
            "warning: this auxiliary knows no more than token frequencies, so its replacements are easy to see "
            "through: train it longer or at another learning rate, or take one that was trained on such text "
            "(docs/auxiliaries.md, how to read the check)."
        )
    return found, sentences


def excluded_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Special tokens, and ids below the largest that no token has, as bool (V,)."""
    excluded_V = torch.ones(vocabulary_size(tokenizer), dtype=torch.bool)
    excluded_V[list(tokenizer.get_vocab().values())] = False
    excluded_V[tokenizer.all_special_ids] = True
    return excluded_V


def _folder(name: str) -> str:
    """Where an auxiliary's model lies: a joint run stands for its generator."""
    run = RunFolder.find(name)
    if run is not None and run.objective == "fast_electra":
        raise ModelError(
            f"the auxiliary {name} is a run of fast_electra, whose model detects tokens and predicts none: name a run "
            "of objective.kind=mlm or electra."
        )
    folder = Path(resolve_model(name))  # refuses what has not finished
    return str(run.model(_GENERATOR) if run is not None and run.objective == "electra" else folder)


def _kind(name: str, asked: str, model_config: PreTrainedConfig) -> Kind:
    """The kind asked for, or that of the model's class."""
    encoder_decoder = bool(model_config.is_encoder_decoder)
    if asked in ("prefix_lm", "span_corruption") and not encoder_decoder:
        raise ModelError(
            f"auxiliary.kind={asked} needs an encoder-decoder, and {name} is a {model_config.model_type} without: use "
            "causal_lm or masked_lm."
        )
    if asked in ("masked_lm", "causal_lm") and encoder_decoder:
        raise ModelError(
            f"auxiliary.kind={asked} needs a model of one stack, and {name} is an encoder-decoder "
            f"({model_config.model_type}): use span_corruption or prefix_lm."
        )
    if asked != "auto":
        return cast(Kind, asked)
    if encoder_decoder:
        return "span_corruption"
    architecture = (model_config.architectures or ["ForMaskedLM"])[0]
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal_lm"
    # An encoder without a head, and other heads: load_model says what is missing. ELECTRA's discriminator has none.
    if architecture.endswith(("ForMaskedLM", "Model")) or (architecture == "BertForPreTraining"):
        return "masked_lm"
    raise ModelError(
        f"the auxiliary {name} is a {architecture}, which is not a language model: give one that predicts tokens "
        "(…ForMaskedLM, …ForCausalLM, or a T5-like …ForConditionalGeneration)."
    )


def other_tokens(found: FoundAuxiliary, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What differs between an auxiliary's tokens and those of a text's tokenizer, in a few words; None: nothing.

    Every id must mean the same to both; only [MASK] may be unknown to a model that never reads it.
    """
    is_masked_lm = found.kind == "masked_lm"
    if is_masked_lm and fingerprint(found.tokenizer) == fingerprint(tokenizer):
        return None
    difference = _difference(found.tokenizer, tokenizer, unread=None if is_masked_lm else str(tokenizer.mask_token))
    if difference is None and is_masked_lm:
        return "the same tokens, but texts are split or normalised otherwise"
    return difference


def _difference(theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase, unread: str | None) -> str | None:
    """What differs between an auxiliary's tokens and the shards', in a few words.

    Args:
        theirs: the auxiliary's.
        ours: the shards'.
        unread: the one token that the auxiliary is never shown and may lack; None: it reads all, and special tokens
            must have the same parts.
    """
    their_ids, our_ids = theirs.get_vocab(), ours.get_vocab()
    sizes = f"{len(their_ids)} and {len(our_ids)} tokens"
    for token in sorted(their_ids.keys() - our_ids.keys()):
        return f"{sizes}; {token!r} is not among the shards'"
    for token in sorted(our_ids.keys() - their_ids.keys() - {unread}):
        return f"{sizes}; {token!r} is not among its own"
    for token, number in their_ids.items():
        if our_ids[token] != number:
            return f"the same tokens in another order; {token!r} is {number} there and {our_ids[token]} here"
    if unread is not None:
        return None
    for role in ("pad", "unk", "cls", "sep", "mask"):
        one, other = getattr(theirs, f"{role}_token"), getattr(ours, f"{role}_token")
        if one != other:
            return f"its {role} token is {one!r}, and here it is {other!r}"
    return None


def _fit_vocabulary(name: str, model: PreTrainedModel, size: int) -> None:
    """Cut off embeddings and logits that no token has (tables are often rounded up)."""
    rows = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    if rows < size:
        raise ModelError(
            f"the auxiliary {name} has embeddings for {rows} tokens and a tokenizer of {size}: resize its embeddings "
            "in Transformers and save it first."
        )
    if rows > size:
        model.resize_token_embeddings(size, pad_to_multiple_of=1)


def _sentinels(found: FoundAuxiliary, slots: int) -> list[int]:
    """Ids of <extra_id_0>, <extra_id_1>, … in order."""
    numbered = {
        int(match[1]): number
        for token, number in found.tokenizer.get_vocab().items()
        if (match := re.fullmatch(r"<extra_id_(\d+)>", token))
    }
    if not numbered:
        raise ModelError(
            f"the auxiliary {found.name} has no sentinels (<extra_id_0>, …), so it was not trained on span corruption: "
            "use auxiliary.kind=prefix_lm, or another model."
        )
    if slots > len(numbered):
        raise ModelError(
            f"a row may have {slots} masked spans, and the auxiliary {found.name} has {len(numbered)} sentinels: "
            "shorten the rows (data.length), or lower corruption.masking.rate."
        )
    return [numbered[number] for number in sorted(numbered)]


def _refuse_augmentation_without_effect(auxiliary: Auxiliary, config: Config, prepared: Prepared) -> None:
    """MPNet and DeBERTa, say, compute their attention themselves; layers may be shared: see whether logits change."""
    kind = config.corruption.augmentation.kind
    if kind == "temperature":
        return
    row = prepared.split(1)[0]
    strong = Difficulty(1.0, **{kind: 0.9})
    with torch.random.fork_rng():
        plain, changed = (auxiliary.logits(row.batch, row.masked, d) for d in (Difficulty(1.0), strong))
    if torch.equal(plain, changed):
        raise ConfigError(
            f"corruption.augmentation.kind={kind} changes nothing in this auxiliary, whose class does it out of reach: "
            "use temperature, or another auxiliary."
        )
