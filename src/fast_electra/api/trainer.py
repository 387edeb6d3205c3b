"""Fast-ELECTRA for Transformers' `Trainer`: a collator and a callback.

    corrupt = Corruptor(auxiliary, tokenizer)
    collator = FastElectraCollator(corrupt)
    Trainer(model, arguments, data_collator=collator, callbacks=[FastElectraCallback(corrupt, collator)], ...)

Notable:
- the collator draws the masks in the data loader's workers; it holds no model, so sending it to them is cheap;
- the callback draws the replacements in the main process, on the model's device, at the temperature of the step: a hook
  on the model replaces tokens just before the forward pass, and another hook adds the loss to the output;
- masks and noise depend on the seed, the epoch and the row (its `index`, otherwise its tokens), never on the number of
  workers, the batch size or the order. So a run that the Trainer resumes sees the same batches;
- accumulated batches are weighted by their scored tokens if the model's class lets the Trainer count them (`**kwargs`
  in its forward pass, as in most classes of Transformers), otherwise equally.

Shapes: B rows, S positions, M masked positions (padded).
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fast_electra.api.corruptor import NOT_SCORED, Corruptor, rtd_loss
from fast_electra.corruption.masking import Masked
from fast_electra.errors import ConfigError

# Keys that the collator adds to a batch, and that the callback removes before the model sees it.
_POSITIONS, _VALID, _SAMPLES = "masked_positions", "masked_valid", "samples"
# A row's number is below 2^48 (data/random.py).
_SAMPLE_BYTES = 6


class FastElectraCollator:
    """Pads tokenized texts to a batch and draws the masked positions; it runs in the data loader's workers.

    A feature has `input_ids`, and may have other outputs of the tokenizer. If it has an `index` (set
    `remove_unused_columns=False`, so that the Trainer keeps it), the index determines the row's masks and noise,
    otherwise the row's tokens do. The masks of a row change with the epoch, those of evaluation rows too.
    """

    def __init__(self, corrupt: Corruptor) -> None:
        """Use the tokenizer, the masking and the seed of a `Corruptor`."""
        self._masking = corrupt.masking
        # In shared memory, because persistent workers live for several epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which changes the masks; `FastElectraCallback` calls this at the start of each epoch."""
        self._epoch.fill_(epoch)

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch with the original rows, the positions to replace, and labels: 0 at scored tokens, -100 elsewhere."""
        tokenizer = self._masking.tokenizer
        known = tokenizer.model_input_names
        plain = [{name: _listed(feature[name]) for name in known if name in feature} for feature in features]
        padded = tokenizer.pad(plain, return_attention_mask=True, return_tensors="pt", verbose=False)
        samples_B = torch.tensor(self._samples(features))
        rows = self._masking.rows(padded["input_ids"], padded["attention_mask"], samples_B)
        masked = self._masking(rows, 0)
        added = {
            "labels": torch.zeros_like(rows.ids).masked_fill_(~rows.eligible, NOT_SCORED),
            _POSITIONS: masked.positions_BM,
            _VALID: masked.valid_BM,
            _SAMPLES: samples_B,
        }
        return {**padded, **added}

    def _samples(self, features: Sequence[Mapping[str, Any]]) -> list[int]:
        """A number for each row from the epoch and the row's index or tokens; equal rows get different numbers."""
        epoch, seen, found = int(self._epoch), Counter[str](), []
        for feature in features:
            row = f"index {int(feature['index'])}" if "index" in feature else str(_listed(feature["input_ids"]))
            text = f"{epoch} {seen[row]} {row}"
            seen[row] += 1
            digest = hashlib.blake2b(text.encode(), person=b"trainer", digest_size=_SAMPLE_BYTES).digest()
            found.append(int.from_bytes(digest, "little"))
        return found


class FastElectraCallback(TrainerCallback):
    """Replaces tokens before each forward pass of the Trainer's model, and computes the loss for the Trainer.

    In training, the temperature depends on the share of steps done, and is logged; in evaluation it is 1. The labels
    that the Trainer passes to `compute_metrics` are 1 replaced, 0 original, -100 not scored.
    """

    def __init__(self, corrupt: Corruptor, collator: FastElectraCollator) -> None:
        """Use a `Corruptor`, and the collator of the same Trainer."""
        self._corrupt, self._collator = corrupt, collator
        self._temperature = corrupt.temperature(0.0)
        self._hooked: nn.Module | None = None
        self._labels: Tensor | None = None
        self._count: Any = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add the hooks to the model.

        Raises:
            ConfigError: one process uses several GPUs, or a setting changes how the Trainer computes the loss.
        """
        if args.n_gpu > 1:
            raise ConfigError(
                f"this Trainer uses {args.n_gpu} GPUs in one process: start one process per GPU with torchrun, or set "
                "CUDA_VISIBLE_DEVICES to one of them."
            )
        if args.label_smoothing_factor:
            raise ConfigError("FastElectraCallback computes the loss itself: leave label_smoothing_factor out.")
        self._hook(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the hooks now if the callback was added to an existing Trainer."""
        if self._hooked is None:
            self.on_init_end(args, state, control, **kwargs)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the collator's epoch before the workers start it."""
        self._collator.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the temperature of the step."""
        self._temperature = self._corrupt.temperature(state.global_step / state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the temperature to a training record."""
        if logs is not None and "learning_rate" in logs:
            logs["temperature"] = state.log_history[-1]["temperature"] = self._temperature

    def _hook(self, model: nn.Module) -> None:
        model.register_forward_pre_hook(self._replace, with_kwargs=True)
        model.register_forward_hook(self._add_loss)
        self._hooked = model

    def _replace(self, model: nn.Module, arguments: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Put replacements into the model's inputs; a batch that is not from the collator stays unchanged."""
        if _POSITIONS not in inputs:
            return arguments, inputs
        labels = inputs.get("labels")
        if labels is None:
            raise ConfigError(
                "FastElectraCallback computes the loss itself: leave the Trainer's compute_loss_func out."
            )
        added = {name: inputs[name] for name in (_POSITIONS, _VALID, _SAMPLES)}
        rows = self._corrupt.masking.rows(inputs["input_ids"], inputs["attention_mask"], added[_SAMPLES])
        masked = Masked(added[_POSITIONS], added[_VALID])
        batch = self._corrupt.replace(rows, masked, self._temperature if model.training else 1.0, 0)
        # In place, because the Trainer passes this tensor to compute_metrics.
        self._labels = labels.copy_(batch.labels)
        self._count = inputs.get("num_items_in_batch")
        kept = {name: value for name, value in inputs.items() if name not in (*added, "labels", "num_items_in_batch")}
        return arguments, {**kept, "input_ids": batch.input_ids}

    def _add_loss(self, model: nn.Module, arguments: Any, output: Any) -> Any:
        """Add the loss to the model's output."""
        if self._labels is None:
            return output
        labels, self._labels = self._labels, None
        if self._count is None:
            output["loss"] = rtd_loss(output["logits"], labels)
        else:
            output["loss"] = rtd_loss(output["logits"], labels, "sum") / self._count
        return output


def _listed(ids: Any) -> list[int]:
    return ids.tolist() if hasattr(ids, "tolist") else list(ids)
