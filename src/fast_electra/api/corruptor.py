"""Fast-ELECTRA's corruption and loss for a training loop of your own: tensors in, tensors out.

Notable:
- it computes what `pretrain` computes in a training step, with the same functions;
- noise has a key and no stream: seed, update and the number of a row fix its masks and its replacements. So the same
  call gives the same batch, on any number of workers and after any restart;
- a step has two halves, `mask` and `replace`. The first needs no auxiliary, so the workers of a data loader can do it
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
from fast_electra.corruption.masking import Masked
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
"""label of the tokens that no loss is over: special ones and padding"""


@dataclass(frozen=True, eq=False)
class FrozenAuxiliary:
    """A language model that replacements are drawn from; `load_auxiliary` reads it, and `Corruptor` uses it."""

    found: FoundAuxiliary
    model: PreTrainedModel
    execution: Execution

    @property
    def name(self) -> str:
        """The name that it was loaded by."""
        return self.found.name

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer; the texts of the main model must have the same one."""
        return self.found.tokenizer


def load_auxiliary(
    source: str | Path,
    *,
    kind: Literal["auto", "masked_lm", "causal_lm", "prefix_lm", "span_corruption"] = "auto",
    checkpoint: int | None = None,
    layers: int | None = None,
    dtype: torch.dtype | None = None,
) -> FrozenAuxiliary:
    """Load a language model as a frozen auxiliary. It computes on the device of the batches that it is given.

    Args:
        source: a run of fast-electra, a folder with a Transformers model, or a name on the Hugging Face hub.
        kind: how it predicts a masked token; auto: by the class of the model (docs/auxiliaries.md).
        checkpoint: the update of a run whose weights are used; None: the last.
        layers: use its first layers only; None: all.
        dtype: of the weights; None: bfloat16 where this machine multiplies it natively, otherwise float32.

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
    """What a `Corruptor` returns: the main model's input and its labels, on the device of the originals."""

    input_ids: Tensor
    """(B, S) int64: the rows with replacements at the masked positions"""
    labels: Tensor
    """(B, S) int64: 1 where the token was replaced, 0 where it is the original, -100 where nothing is scored"""
    masked_positions: Tensor
    """(B, S) bool: where the auxiliary drew a token; it may have drawn the original"""
    temperature: float
    """T of softmax(logits / T), from which the tokens were drawn"""


class Corruptor:
    """Replaces tokens of a batch by samples of a frozen auxiliary, easy to detect at first and harder later.

    The model to train learns by `rtd_loss` which tokens were replaced.
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
            auxiliary: from `load_auxiliary`.
            tokenizer: of the main model; the auxiliary's, for a token must mean the same to both.
            schedule: the temperature by the progress, one of this package's schedules or a function of a number from 0
                to 1; None: the paper's, `ExponentialSchedule(initial=2.0, tau=0.1)`.
            mask_rate: share of each row's tokens that are masked at random, special tokens not counted.
            masking: another way to mask, with its own rate: `WholeWordMasking(rate=0.15)`, `SpanMasking(rate=0.15)`, or
                a masking of yours (docs/plugins.md); None: random tokens at `mask_rate`.
            seed: of masks and noise, from 0 on.

        Raises:
            ModelError: the auxiliary has another tokenizer.
            DataError: the tokenizer lacks a token that rows need.
            ConfigError: a rate outside (0, 1), a negative seed, or a schedule that needs a run.
        """
        if not 0.0 < mask_rate < 1.0:
            raise ConfigError(f"mask_rate is {mask_rate}: give a share between 0 and 1, such as 0.15.")
        if not 0 <= seed < 2**63:
            raise ConfigError(f"seed is {seed}: give a whole number from 0 to 2^63 - 1.")
        self.temperature = _temperature_function(ExponentialSchedule() if schedule is None else schedule)
        """temperature by progress"""
        self.masking = RowMasker(tokenizer, masking or RandomMasking(rate=mask_rate), seed)
        """draws the masks; small, and independent of the auxiliary"""
        found = auxiliary.found
        if difference := other_tokens(found, tokenizer):
            raise ModelError(
                f"the auxiliary {found.name} has another tokenizer than the one given ({difference}): give "
                "that of the auxiliary, and train the main model with it too."
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
            attention_mask: (B, S), 0 where there is padding; None: padding is where the tokenizer's padding token is.
            progress: the share of the training that is done, 0 to 1; it gives the temperature.
            update: the number of the optimizer step; together with `samples` it fixes masks and noise.
            samples: (B,) a number for each row, such as its index in the data set; None: 0, 1, … Give them where one
                update has several batches (gradient accumulation, several processes), so that no rows share noise.

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
        """The second half of a call: draw the tokens at positions that are masked already.

        Args:
            rows: from `masking.rows`.
            masked: the masked positions of the rows.
            temperature: T > 0.
            update: as of a call.
        """
        length, device = rows.ids.shape[1], rows.ids.device
        if self._longest is not None and length > self._longest:
            raise ModelError(
                f"the auxiliary {self._name} takes {self._longest} tokens, and the rows have {length}: shorten them."
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
        masked_BS = torch.zeros_like(rows.padding).scatter(1, masked.positions_BM, masked.valid_BM)
        return CorruptedBatch(corrupted.ids_BS, labels_BS, masked_BS, temperature)


class RowMasker:
    """Draws which positions of a batch are masked: the first half of a `Corruptor`, without the auxiliary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, masking: Masking, seed: int) -> None:
        """See `Corruptor`."""
        self.tokenizer = tokenizer
        self._masking, self._seed = masking, seed
        self._mask = masking.masker(tokenizer)
        self._pad = special_ids(tokenizer)["pad"]
        self._special = torch.tensor(sorted(set(tokenizer.all_special_ids)))
        self._vocabulary = len(excluded_tokens(tokenizer))

    def __call__(self, rows: Batch, update: int) -> Masked:
        """The masked positions of the rows at an update."""
        return self._mask(rows, self.key(update))

    def __getstate__(self) -> dict[str, Any]:
        """What a worker that is not forked is sent: a masking's function cannot be sent, and is made there."""
        return {name: value for name, value in vars(self).items() if name != "_mask"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the masking's function again."""
        vars(self).update(state)
        self._mask = self._masking.masker(self.tokenizer)

    def key(self, update: int) -> int:
        """The seed of an update's masks and noise, 0 to 2^63 - 1.

        Raises:
            ConfigError: a negative update.
        """
        if not 0 <= update < 2**64:
            raise ConfigError(f"update is {update}: give the number of the optimizer step, from 0 on.")
        digest = hashlib.blake2b(struct.pack("<2Q", self._seed, update), person=b"corruptor", digest_size=8).digest()
        return struct.unpack("<Q", digest)[0] >> 1

    def rows(self, input_ids: Tensor, attention_mask: Tensor | None, samples: Tensor | Sequence[int] | None) -> Batch:
        """A batch out of tensors, once they are known to fit each other.

        Raises:
            ModelError: they do not.
        """
        if input_ids.ndim != 2 or input_ids.dtype != torch.int64 or not input_ids.numel():
            raise ModelError(
                f"input_ids are {tuple(input_ids.shape)} {_name(input_ids.dtype)}: give rows × positions in int64."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ModelError(
                f"attention_mask is {tuple(attention_mask.shape)} and input_ids are {tuple(input_ids.shape)}: give "
                "both one shape, with 0 where there is padding."
            )
        # A look at the numbers would make a GPU wait.
        if input_ids.device.type == "cpu" and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < self._vocabulary:
            raise ModelError(
                f"input_ids has an id outside the tokenizer's {self._vocabulary}: encode the texts with the tokenizer "
                "that the Corruptor was given."
            )
        padding_BS = input_ids == self._pad if attention_mask is None else attention_mask == 0
        eligible_BS = ~padding_BS & ~torch.isin(input_ids, self._special.to(input_ids.device))
        if samples is not None:
            samples = torch.as_tensor(samples, dtype=torch.int64, device=input_ids.device)
            if samples.shape != input_ids.shape[:1]:
                raise ModelError(
                    f"samples are {tuple(samples.shape)} for {len(input_ids)} rows: give one number a row."
                )
            samples = samples & (2**63 - 1)  # a hash may be negative, and a counter may not
        return Batch.of(input_ids, padding_BS, eligible_BS, samples)


def rtd_loss(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """The loss of replaced token detection: binary cross-entropy in nats, over the tokens that are scored.

    Args:
        logits: of the main model: (B, S) or (B, S, 1) for a head with one logit, (B, S, 2) for one with two labels, of
            which the second is "replaced".
        labels: (B, S): 1 replaced, 0 original, -100 not scored.
        reduction: mean over the scored tokens; or their sum, to be divided by the count of a larger batch.

    Returns:
        a scalar in float32; 0 where nothing is scored.

    Raises:
        ModelError: the shapes do not fit.
    """
    heads = [labels.shape, (*labels.shape, 1), (*labels.shape, 2)]
    if logits.shape not in heads:
        raise ModelError(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}: give a model with one logit or two "
            "labels a token, such as ElectraForPreTraining, or AutoModelForTokenClassification with num_labels=1."
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
            f"{schedule!r} depends on a run's measures: give initial as a number and a schedule of the progress alone, "
            "or a function of the progress."
        )
    return schedule.temperature


def moved_auxiliary(auxiliary: Auxiliary, device: torch.device) -> Auxiliary:
    """An auxiliary on another device, modules and tensors of it alike."""
    part: Any = auxiliary
    parts = {field.name: getattr(part, field.name) for field in fields(part)}
    return cast(
        Auxiliary, replace(part, **{key: value.to(device) for key, value in parts.items() if hasattr(value, "to")})
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
