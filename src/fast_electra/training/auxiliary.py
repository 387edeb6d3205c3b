"""The auxiliary of a run: found, loaded, compared with the shards, frozen, and measured before it is used.

Notable:
- an auxiliary that does not fit is refused in one sentence: other tokens than the shards', a model that predicts no
  tokens, rows that are too long, an augmentation that has no effect on the model;
- its digest covers the configuration and exactly the weights in use: those of the chosen checkpoint, without layers
  that were removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fast_electra.config.reading import setting
from fast_electra.config.tree import Config
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary, Candidates, measure
from fast_electra.corruption.auxiliary_kinds import AuxiliaryConfig, Use
from fast_electra.corruption.counted import unigram_log_probabilities
from fast_electra.data.shards import TokenShards
from fast_electra.data.tokenizer import fingerprint, load_any_tokenizer, load_tokenizer, vocabulary_size
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.inputs import longest_row
from fast_electra.models.layers import truncate
from fast_electra.models.loading import function_digest, load_model, stored_config, tensors_digest
from fast_electra.objectives.base import Prepared
from fast_electra.runs.checkpoints import Checkpoint, checkpoint_at
from fast_electra.runs.folder import RunFolder, load_run
from fast_electra.runs.models import resolve_model
from fast_electra.training.checkpoint_models import config_folder, read_model
from fast_electra.training.precision import Execution

_GENERATOR = "generator"
# An auxiliary counts as better only below this share of the unigram's perplexity: a plateau is within a few per cent.
_NO_BETTER = 0.9


@dataclass(frozen=True)
class FoundAuxiliary:
    """An auxiliary whose weights are not read yet: its kind, tokenizer and place."""

    name: str
    """the name that the user gave"""
    part: AuxiliaryConfig
    """the auxiliary's settings; `kind` is never `auto`"""
    source: str
    """a folder or a hub name"""
    tokenizer: PreTrainedTokenizerBase
    """the auxiliary's tokenizer"""

    def load(self) -> PreTrainedModel:
        """Read the weights in float32, of the checkpoint and the layers that the settings ask for.

        Raises:
            ModelError: the model predicts no tokens.
            CheckpointError: the run has no such checkpoint.
        """
        if self.part.checkpoint is None:
            model = load_model(self.source, self.part.head)
        else:
            model = read_model(*self._place(self.part.checkpoint), rounded=False)
        if self.part.layers is not None:
            truncate(model, self.part.layers)
        return model

    def digest(self, model: PreTrainedModel) -> str:
        """The digest of the loaded model: of the weights in use and of the configuration."""
        source = self.source if self.part.checkpoint is None else config_folder(*self._place(self.part.checkpoint))
        return function_digest(tensors_digest(model.named_parameters()), source)

    def _place(self, update: int) -> tuple[Checkpoint, str]:
        """A checkpoint of the run, verified, and the name of the auxiliary in it."""
        which = _GENERATOR if Path(self.source).name == _GENERATOR else "main"
        return checkpoint_at(load_run(Path(self.name)).checkpoints, update), which


@dataclass(frozen=True)
class LoadedAuxiliary:
    """An auxiliary before it is frozen."""

    part: AuxiliaryConfig
    """the auxiliary's settings; `kind` is never `auto`"""
    model: PreTrainedModel | None
    """the model in float32; None for an auxiliary that is counted on the shards"""
    sentinels: list[int]
    """ids of the auxiliary's tokens that represent masked spans"""
    excluded_V: Tensor
    """bool (V,): tokens that are never drawn: special tokens, sentinels, and ids that the tokenizer does not have"""
    digest: str | None
    """digest of weights and configuration; None for an auxiliary that is counted: the shards determine it"""


def needs_auxiliary(config: Config) -> bool:
    """Whether a run reads the auxiliary; with a cache, only to check the cache or to copy weights.

    Raises:
        ConfigError: the run needs an auxiliary, and none is named.
    """
    settings = config.auxiliary
    is_named = settings.model is not None or settings.is_counted
    if not is_named and (config.corruption.cache is None or config.copied_from_auxiliary):
        raise ConfigError(
            "auxiliary.model is not given: name a run, a folder or a hub name of a language model, train one with "
            "objective.kind=mlm, or set auxiliary.kind to ngram or unigram, which need no model."
        )
    return is_named


def load_auxiliary(config: Config, shards: TokenShards, tokenizer: PreTrainedTokenizerBase) -> LoadedAuxiliary:
    """Load the auxiliary that `config.auxiliary` describes, with its model in float32.

    Args:
        config: of the run.
        shards: the run's shards.
        tokenizer: of the shards.

    Raises:
        ConfigError: the auxiliary's settings contradict each other.
        ModelError: the model predicts no tokens, has another tokenizer than the shards, or takes only shorter rows.
        CheckpointError: the run has no such checkpoint.
    """
    settings = config.auxiliary
    excluded_V = excluded_tokens(tokenizer)
    if settings.is_counted:
        return LoadedAuxiliary(settings, None, [], excluded_V, None)
    found = find_auxiliary(settings)
    if difference := other_tokens(found, tokenizer):
        raise ModelError(
            f"the auxiliary {found.name} has another tokenizer than the shards {shards.folder} ({difference}): build "
            "the shards with "
            + setting("data.tokenizer.path", resolve_model(found.name))
            + ("" if found.part.reads_mask else ", whose tokenizer needs four special tokens (docs/auxiliaries.md)")
            + "."
        )
    model = found.load()
    longest = longest_row(model.config)
    if longest is not None and config.longest_row > longest:
        raise ModelError(
            f"the auxiliary {found.name} takes {longest} tokens, fewer than data.length={config.longest_row}: "
            f"set data.length={longest} or less."
        )
    phases = [plan.config for plan in config.planned_phases()]
    slots = max(max(1, round(each.corruption.masking.rate * each.data.length)) for each in phases)
    return fit_auxiliary(found, model, excluded_V, slots)


def find_auxiliary(settings: AuxiliaryConfig) -> FoundAuxiliary:
    """Find the auxiliary that `settings.model` names: a run, a folder or a hub name.

    Raises:
        ModelError: there is no model, it predicts no tokens, or it is of another kind than the settings ask for.
        DataError: it has no tokenizer.
    """
    name = settings.model
    assert name is not None  # `needs_auxiliary` has refused this
    source = _folder(name)
    part = settings.of_model(name, stored_config(source))
    # Only a model that reads [MASK] needs a tokenizer with all special tokens.
    tokenizer = load_tokenizer(source) if part.reads_mask else load_any_tokenizer(source)
    return FoundAuxiliary(name, part, source, tokenizer)


def fit_auxiliary(found: FoundAuxiliary, model: PreTrainedModel, excluded_V: Tensor, slots: int) -> LoadedAuxiliary:
    """Fit an auxiliary's model to the vocabulary of the text that it will be used on.

    Args:
        found: where the model was loaded from.
        model: the result of `found.load()`; its embeddings of ids that no token has are removed.
        excluded_V: bool (V,), tokens that must never be drawn; the result adds the sentinels.
        slots: largest number of masked positions in a row.

    Raises:
        ModelError: the model has too few embeddings or sentinels.
    """
    if found.part.reads_mask:
        _fit_vocabulary(found.name, model, len(excluded_V))
    sentinels = found.part.sentinels(found.name, found.tokenizer, slots)
    excluded_V = excluded_V.clone()
    excluded_V[sentinels] = True
    return LoadedAuxiliary(found.part, model, sentinels, excluded_V, found.digest(model))


def make_auxiliary(
    loaded: LoadedAuxiliary, config: Config, shards: TokenShards, mask_id: int, execution: Execution
) -> Auxiliary:
    """The auxiliary ready for use: a frozen model, or a table that is counted on the shards.

    Raises:
        ConfigError: `data.attention=document` is set, and the model reads a row as one text.
    """
    if loaded.model is None:
        return loaded.part.count(shards.split("train"), ~loaded.excluded_V, execution.device)
    return freeze_auxiliary(loaded, loaded.model, config.data.attention == "document", mask_id, execution)


def freeze_auxiliary(
    loaded: LoadedAuxiliary, model: PreTrainedModel, by_document: bool, mask_id: int, execution: Execution
) -> Auxiliary:
    """Move the model of `loaded` to the device in the type that the precision gives it, and freeze it.

    Raises:
        ConfigError: `by_document` is set, and the model reads a row as one text.
    """
    if by_document and not loaded.part.keeps_documents_apart:  # with kind=auto, the configuration could not check this
        raise ConfigError(
            f"data.attention=document is not possible with auxiliary.kind={loaded.part.kind}, which reads a row as "
            "one text: use data.attention=packed."
        )
    candidates = Candidates.of(loaded.excluded_V, execution.device)
    use = Use(by_document, mask_id, loaded.sentinels, candidates, execution.device, execution.auxiliary_dtype)
    return loaded.part.wrap(model, use)


@torch.no_grad()
def check_auxiliary(
    auxiliary: Auxiliary, loaded: LoadedAuxiliary, config: Config, shards: TokenShards, batches: Sequence[Prepared]
) -> tuple[dict[str, float], list[str]]:
    """Compare an auxiliary with the unigram baseline, and check that the augmentation changes its logits.

    Args:
        auxiliary: the auxiliary, ready for use.
        loaded: what `auxiliary` was made from.
        config: of the run.
        shards: the unigram baseline is counted on their training split.
        batches: some validation rows, on the auxiliary's device.

    Returns:
        the measures (`corruption.auxiliary.measure`), and sentences about them; the second one is a warning if the
        auxiliary is no better than the baseline.

    Raises:
        ConfigError: the augmentation changes nothing.
        ModelError: the auxiliary's logits are not finite.
    """
    _refuse_augmentation_without_effect(auxiliary, config, batches[0])
    unigram_V = unigram_log_probabilities(shards.split("train"), ~loaded.excluded_V)
    found = measure(auxiliary, ((b.batch, b.masked) for b in batches), shards.most_frequent_token(), unigram_V)
    if not all(map(isfinite, found.values())):
        raise ModelError(
            f"the auxiliary {config.auxiliary.model} gives logits that are not finite on rows of the run's text: "
            "its training diverged, or its weights are damaged; use another one."
        )
    rows = sum(len(b.batch.ids) for b in batches)
    sentences = [
        f"checked on {rows} held-out rows, the auxiliary predicts {found['masked_accuracy']:.1%} of masked tokens "
        f"(most frequent token: {found['unigram_accuracy']:.1%}), perplexity {found['perplexity']:.4g} "
        f"(unigram: {found['unigram_perplexity']:.4g})."
    ]
    better = found["masked_accuracy"] > found["unigram_accuracy"]
    better &= found["perplexity"] < _NO_BETTER * found["unigram_perplexity"]
    if not better and not loaded.part.is_baseline:
        sentences.append(
            "warning: this auxiliary knows no more than token frequencies, so its replacements are easy to see "
            "through: train it longer or at another learning rate, or use one that was trained on similar text "
            "(docs/auxiliaries.md, how to read the check)."
        )
    return found, sentences


def excluded_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Tokens that are never drawn, as bool (V,): special tokens, and ids that no token has."""
    excluded_V = torch.ones(vocabulary_size(tokenizer), dtype=torch.bool)
    excluded_V[list(tokenizer.get_vocab().values())] = False
    excluded_V[tokenizer.all_special_ids] = True
    return excluded_V


def _folder(name: str) -> str:
    """The folder or hub name of an auxiliary's model; for a run of joint ELECTRA, its generator's folder."""
    run = RunFolder.find(name)
    model = run.config.objective.auxiliary_model if run is not None else None
    if run is not None and model is None:
        raise ModelError(
            f"the auxiliary {name} is a run of fast_electra, whose model detects tokens and predicts none: name a run "
            "of objective.kind=mlm or electra."
        )
    folder = Path(resolve_model(name))  # refuses a run that has not finished
    return str(run.model(model) if run is not None and model not in (None, "main") else folder)


def other_tokens(found: FoundAuxiliary, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """How an auxiliary's tokens differ from a tokenizer's, in a few words; None if they are the same.

    Every id must mean the same token to both. Only a model that never reads [MASK] may lack it.
    """
    reads_mask = found.part.reads_mask
    if reads_mask and fingerprint(found.tokenizer) == fingerprint(tokenizer):
        return None
    difference = _difference(found.tokenizer, tokenizer, unread=None if reads_mask else str(tokenizer.mask_token))
    if difference is None and reads_mask:
        return "the same tokens, but texts are split or normalised differently"
    return difference


def _difference(theirs: PreTrainedTokenizerBase, ours: PreTrainedTokenizerBase, unread: str | None) -> str | None:
    """How an auxiliary's tokens differ from the shards', in a few words; None if they are the same.

    Args:
        theirs: the auxiliary's tokenizer.
        ours: the shards' tokenizer.
        unread: the token that the auxiliary never reads and may lack; None: it reads all tokens, and special tokens
            must have the same roles.
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
    """Trim vocabulary rows that the tokenizer does not use (the table's size is often rounded up)."""
    rows = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    if rows < size:
        raise ModelError(
            f"the auxiliary {name} has embeddings for {rows} tokens, but its tokenizer has {size}: resize its "
            "embeddings in Transformers and save it first."
        )
    if rows > size:
        model.resize_token_embeddings(size, pad_to_multiple_of=1)


def _refuse_augmentation_without_effect(auxiliary: Auxiliary, config: Config, prepared: Prepared) -> None:
    """Refuse an augmentation that does not change the logits: MPNet and DeBERTa, for example, ignore some."""
    augmentation = config.corruption.augmentation
    if not augmentation.acts_inside:
        return
    row = prepared.split(1)[0]
    with torch.random.fork_rng():
        plain, changed = (auxiliary.logits(row.batch, row.masked, d) for d in (Difficulty(1.0), augmentation.strong()))
    if torch.equal(plain, changed):
        raise ConfigError(
            f"corruption.augmentation.kind={augmentation.kind} changes nothing in this auxiliary, because its model "
            "class does not support it: use temperature, or another auxiliary."
        )
