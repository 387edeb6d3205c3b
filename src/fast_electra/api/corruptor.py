"""Fast-ELECTRA's corruption and loss for a training loop of your own: tensors in, tensors out.

Notable:
- it uses the functions that `pretrain` uses in a training step;
- random numbers depend on a key, not on a stream: seed, update and a row's number fix its masks and replacements. So
  the same call gives the same batch, with any number of workers and after any restart;
- a step has two halves: masking and replacing. Masking needs no auxiliary, so a data loader's workers can do it
  (`trainer.py`).

Shapes: B rows, S positions, M masked positions (padded), V vocabulary.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.auxiliary import Auxiliary
from fast_electra.corruption.auxiliary_kinds import AuxiliaryConfig
from fast_electra.corruption.masking import Masked, masked_tokens
from fast_electra.corruption.masking_kinds import Masking, RandomMasking
from fast_electra.corruption.replacement import OnTheFly
from fast_electra.corruption.schedules import ExponentialSchedule, Schedule
from fast_electra.data.batches import Batch
from fast_electra.errors import ConfigError, ModelError
from fast_electra.models.inputs import longest_row
from fast_electra.models.rtd import replaced_logits
from fast_electra.objectives.detection import rtd_losses
from fast_electra.training.assembly import special_ids
from fast_electra.training.auxiliary import (
    FoundAuxiliary,
    excluded_tokens,
    find_auxiliary,
    fit_auxiliary,
    freeze_auxiliary,
    other_tokens,
)
from fast_electra.training.precision import Execution, choose_execution

NOT_SCORED = -100
"""label of tokens that the loss leaves out: special tokens and padding"""


@dataclass(frozen=True, eq=False)
class FrozenAuxiliary:
    """A frozen language model that a `Corruptor` draws replacements from; `load_auxiliary` returns it."""

    found: FoundAuxiliary
    model: PreTrainedModel
    execution: Execution

    @property
    def name(self) -> str:
        """The run, folder or hub name that it was loaded from."""
        return self.found.name

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The auxiliary's tokenizer; the main model must use the same tokenizer."""
        return self.found.tokenizer


def load_auxiliary(
    source: str | Path,
    *,
    kind: Literal["auto", "masked_lm", "causal_lm", "prefix_lm", "span_corruption"] = "auto",
    checkpoint: int | None = None,
    layers: int | None = None,
    dtype: torch.dtype | None = None,
) -> FrozenAuxiliary:
    """Load a language model as a frozen auxiliary. It computes on the device of the batches that it gets.

    Args:
        source: a run of fast-electra, a folder with a Transformers model, or a name on the Hugging Face hub.
        kind: how it predicts a masked token; auto: chosen by the class of the model (docs/auxiliaries.md).
        checkpoint: the update of a run's checkpoint whose weights to use; None: the finished run's model.
        layers: number of first layers to use; None: all layers.
        dtype: of the weights; None: bfloat16 if this machine multiplies it natively, otherwise float32.

    Raises:
        ModelError: there is no such model, or it predicts no tokens.
        DataError: the model has no tokenizer.
        CheckpointError: the run has no such checkpoint.
    """
    found = find_auxiliary(AuxiliaryConfig.kinds[kind](model=str(source), checkpoint=checkpoint, layers=layers))
    execution = replace(choose_execution(), device=torch.device("cpu"))
    model = found.load()
    return FrozenAuxiliary(found, model, execution if dtype is None else replace(execution, auxiliary_dtype=dtype))


@dataclass(frozen=True, eq=False)
class CorruptedBatch:
    """What a `Corruptor` returns: the main model's input and its labels, on the device of the input."""

    input_ids: Tensor
    """(B, S) int64: the rows with replacements at the masked positions"""
    labels: Tensor
    """(B, S) int64: 1 if the token was replaced, 0 if it is the original, -100 if the loss leaves it out"""
    masked_positions: Tensor
    """(B, S) bool: positions where the auxiliary drew a token, which may equal the original"""
    temperature: float
    """the T of softmax(logits / T), from which the tokens were drawn"""


class Corruptor:
    """Replaces tokens of a batch by samples from a frozen auxiliary, which become harder to detect during training.

    Train the main model with `rtd_loss` to detect which tokens were replaced.
    """

    def __init__(
        self,
        auxiliary: FrozenAuxiliary,
        tokenizer: PreTrainedTokenizerBase,
        *,
        schedule: Schedule | Callable[[float], float] | None = None,
        mask_rate: float = 0.15,
        masking: Masking | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare an auxiliary for the texts of a tokenizer.

        Args:
            auxiliary: a result of `load_auxiliary`.
            tokenizer: of the main model; every token must have the same id as in the auxiliary's tokenizer.
            schedule: one of this package's schedules, or a function from the progress in [0, 1] to the temperature;
                None: the paper's, `ExponentialSchedule(initial=2.0, tau=0.1)`.
            mask_rate: share of each row's tokens to mask at random; special tokens do not count.
            masking: another way to mask, with its own rate: `WholeWordMasking(rate=0.15)`, `SpanMasking(rate=0.15)`, or
                a masking of your own (docs/plugins.md); None: random tokens at `mask_rate`.
            seed: seed of masks and noise, 0 or more.

        Raises:
            ModelError: the auxiliary has another tokenizer.
            DataError: the tokenizer lacks a special token that rows need.
            ConfigError: a rate outside (0, 1), a negative seed, or a schedule that depends on a run's measures.
        """
        if not 0.0 < mask_rate < 1.0:
            raise ConfigError(f"mask_rate is {mask_rate}: give a share between 0 and 1, such as 0.15.")
        if not 0 <= seed < 2**63:
            raise ConfigError(f"seed is {seed}: give a whole number from 0 to 2^63 - 1.")
        self.temperature = _temperature_function(ExponentialSchedule() if schedule is None else schedule)
        """function from the progress to the temperature"""
        self.masking = RowMasker(tokenizer, masking or RandomMasking(rate=mask_rate), seed)
        """draws the masks, without the auxiliary"""
        found = auxiliary.found
        if difference := other_tokens(found, tokenizer):
            raise ModelError(
                f"the auxiliary {found.name} has another tokenizer than the one given ({difference}): give the "
                "auxiliary's tokenizer, and train the main model with it too."
            )
        loaded = fit_auxiliary(found, auxiliary.model, excluded_tokens(tokenizer), slots=1)
        self._name, self._longest = found.name, longest_row(auxiliary.model.config)
        self._most_masked = len(loaded.sentinels) or None
        self._device = auxiliary.execution.device
        self._auxiliary = freeze_auxiliary(
            loaded, auxiliary.model, False, special_ids(tokenizer)["mask"], auxiliary.execution
        )

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        progress: float,
        update: int,
        samples: Tensor | Sequence[int] | None = None,
    ) -> CorruptedBatch:
        """Corrupt a batch; the same arguments give the same result.

        Args:
            input_ids: (B, S) int64, tokenized texts with their special tokens.
            attention_mask: (B, S), 0 at padding; None: every padding token of the tokenizer is padding.
            progress: the share of the training that is done, 0 to 1; it determines the temperature.
            update: the number of the optimizer step; together with `samples` it fixes masks and noise.
            samples: (B,) a number for each row, such as its index in the data set; None: 0, 1, … Give them if one
                update has several batches (gradient accumulation, several processes), so that rows share no noise.

        Raises:
            ModelError: the tensors do not fit each other, the tokenizer or the auxiliary.
            ConfigError: a progress outside [0, 1], or a negative update.
        """
        if not 0.0 <= progress <= 1.0:
            raise ConfigError(f"progress is {progress}: give the share of updates that are done, from 0 to 1.")
        temperature = float(self.temperature(progress))
        if not temperature > 0.0:
            raise ConfigError(f"the schedule gives a temperature of {temperature} at {progress}: it must be above 0.")
        rows = self.masking.rows(input_ids, attention_mask, samples)
        return self.replace(rows, self.masking(rows, update), temperature, update)

    def replace(self, rows: Batch, masked: Masked, temperature: float, update: int) -> CorruptedBatch:
        """Draw the tokens at given masked positions. This is the second half of a call.

        Args:
            rows: the result of `masking.rows`.
            masked: the masked positions of the rows.
            temperature: T > 0.
            update: the number of the optimizer step.

        Raises:
            ModelError: the rows are too long for the auxiliary, or have too many masked spans.
        """
        length, device = rows.ids.shape[1], rows.ids.device
        if self._longest is not None and length > self._longest:
            raise ModelError(
                f"the auxiliary {self._name} takes {self._longest} tokens, and the rows have {length}: shorten the "
                "rows."
            )
        if self._most_masked is not None and masked.positions_BM.shape[1] > self._most_masked:
            raise ModelError(
                f"a row of {length} tokens may have {masked.positions_BM.shape[1]} masked spans, and the auxiliary "
                f"{self._name} has {self._most_masked} sentinels: shorten the rows, or lower mask_rate."
            )
        if device != self._device:
            self._auxiliary, self._device = moved_auxiliary(self._auxiliary, device), device
        source = OnTheFly(self._auxiliary)
        corrupted = source.corrupt(rows, masked, Difficulty(temperature), self.masking.key(update))
        labels_BS = corrupted.replaced_BS.long().masked_fill_(~rows.eligible, NOT_SCORED)
        masked_BS = masked_tokens(rows, masked)
        return CorruptedBatch(corrupted.ids_BS, labels_BS, masked_BS, temperature)


class RowMasker:
    """Draws the masked positions of a batch. This is the first half of a `Corruptor`, without the auxiliary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, masking: Masking, seed: int) -> None:
        """Make a masker with the tokenizer, masking and seed of a `Corruptor`."""
        self.tokenizer = tokenizer
        self._masking, self._seed = masking, seed
        self._mask = masking.masker(tokenizer)
        self._pad = special_ids(tokenizer)["pad"]
        self._special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        self._vocabulary = len(excluded_tokens(tokenizer))

    def __call__(self, rows: Batch, update: int) -> Masked:
        """Draw the masked positions of the rows at an update."""
        return self._mask(rows, self.key(update))

    def __getstate__(self) -> dict[str, Any]:
        """The state to send to workers that are not forked, without the masking's function, which cannot be sent."""
        return {name: value for name, value in vars(self).items() if name != "_mask"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state, and make the masking's function again."""
        vars(self).update(state)
        self._mask = self._masking.masker(self.tokenizer)

    def key(self, update: int) -> int:
        """The seed of an update's masks and noise, from 0 to 2^63 - 1.

        Raises:
            ConfigError: the update is negative.
        """
        if not 0 <= update < 2**64:
            raise ConfigError(f"update is {update}: give the number of the optimizer step, from 0 on.")
        digest = hashlib.blake2b(struct.pack("<2Q", self._seed, update), person=b"corruptor", digest_size=8).digest()
        return struct.unpack("<Q", digest)[0] >> 1

    def rows(self, input_ids: Tensor, attention_mask: Tensor | None, samples: Tensor | Sequence[int] | None) -> Batch:
        """Make a batch from tensors; see `Corruptor.__call__` for the arguments.

        Raises:
            ModelError: the tensors do not fit each other or the tokenizer.
        """
        if input_ids.ndim != 2 or input_ids.dtype != torch.int64 or not input_ids.numel():
            raise ModelError(
                f"input_ids are {tuple(input_ids.shape)} {_name(input_ids.dtype)}: give rows × positions in int64."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ModelError(
                f"attention_mask is {tuple(attention_mask.shape)} and input_ids are {tuple(input_ids.shape)}: give "
                "both the same shape, with 0 at padding."
            )
        # On a GPU, this check would wait for the device.
        if input_ids.device.type == "cpu" and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self._vocabulary:
            raise ModelError(
                f"input_ids has an id outside the tokenizer's {self._vocabulary}: encode the texts with the tokenizer "
                "that you gave to the Corruptor."
            )
        padding_BS = input_ids == self._pad if attention_mask is None else attention_mask == 0
        eligible_BS = ~padding_BS & ~torch.isin(input_ids, self._special.to(input_ids.device))
        if samples is not None:
            samples = torch.as_tensor(samples, dtype=torch.int64, device=input_ids.device)
            if samples.shape != input_ids.shape[:1]:
                raise ModelError(
                    f"samples are {tuple(samples.shape)} for {len(input_ids)} rows: give one number per row."
                )
            samples = samples & (2**63 - 1)  # a hash may be negative, but a row's number must not
        return Batch.of(input_ids, padding_BS, eligible_BS, samples)


def rtd_loss(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """The loss of replaced token detection: binary cross-entropy in nats over the scored tokens.

    Args:
        logits: of the main model: (B, S) or (B, S, 1) from a head with one logit, or (B, S, 2) from a head with two
            labels, of which the second is "replaced".
        labels: (B, S): 1 replaced, 0 original, -100 not scored.
        reduction: mean over the scored tokens, or their sum, which you divide by the count of a larger batch.

    Returns:
        a float32 scalar; 0 if no token is scored.

    Raises:
        ModelError: the shapes do not fit.
        ConfigError: another reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ConfigError(f"reduction is {reduction!r}: give mean or sum.")
    heads = [labels.shape, (*labels.shape, 1), (*labels.shape, 2)]
    if logits.shape not in heads:
        raise ModelError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}: use a model with one logit or two "
            "labels per token, such as ElectraForPreTraining, or AutoModelForTokenClassification with num_labels=1."
        )
    logits = logits if logits.shape == labels.shape else replaced_logits(logits)
    scored = labels != NOT_SCORED
    total = (rtd_losses(logits, labels == 1) * scored).sum()
    return total if reduction == "sum" else total / scored.sum().clamp(min=1)


def _temperature_function(schedule: Schedule | Callable[[float], float]) -> Callable[[float], float]:
    if not isinstance(schedule, Schedule):
        return schedule
    if not schedule.is_planned:
        raise ConfigError(
            f"{schedule!r} depends on a run's measures: give a schedule that depends on the progress only (initial is "
            "a number), or a function of the progress."
        )
    return schedule.temperature


def moved_auxiliary(auxiliary: Auxiliary, device: torch.device) -> Auxiliary:
    """A copy of an auxiliary with its modules and tensors on another device."""
    part: Any = auxiliary
    parts = {field.name: getattr(part, field.name) for field in fields(part)}
    return cast(
        Auxiliary, replace(part, **{key: value.to(device) for key, value in parts.items() if hasattr(value, "to")})
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
