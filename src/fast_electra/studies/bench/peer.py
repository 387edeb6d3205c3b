"""Other programs to compare with: joint ELECTRA as a short, plain program, and txtai's token detection.

Notable:
- `PlainElectra` is the joint objective in a screen of code on Transformers' classes. It has this project's precision,
  attention, sampler, compilation and fused optimizer, computes the head at masked positions only, and gets its batches
  ready-made. The difference to this program therefore shows the effect of the rest of the code;
- `TxtaiElectra` is txtai's class with Transformers' Trainer, both at their defaults: float32, dropout 0.1, head and
  softmax at every position, and eager attention, the only one that txtai's class supports.

Shapes: B sequences, S positions, M masked positions, N = B · M, V vocabulary.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    DataCollatorForLanguageModeling,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from fast_electra.corruption.sampling import sample
from fast_electra.models.attention import MATMUL_ATTENTION
from fast_electra.models.rtd import replaced_logits
from fast_electra.training.precision import Execution

_RATE, _WEIGHT = 0.15, 50.0

# The head of a masked language model, by architecture.
_HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "electra": lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden)),
    "bert": lambda model, hidden: model.cls(hidden),
    "roberta": lambda model, hidden: model.lm_head(hidden),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}


def plain_refusal(config: PreTrainedConfig) -> str | None:
    """Why the plain program cannot use an architecture; None if it can."""
    if config.model_type in _HEADS:
        return None
    return f"the plain program knows only the heads of {', '.join(_HEADS)}, and this is a {config.model_type}"


def txtai_refusal() -> str | None:
    """Why txtai's program cannot run; None if it can."""
    missing = [name for name in ("txtai", "accelerate") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'fast-electra[bench]'" if missing else None


class PlainElectra:
    """Joint ELECTRA as a plain program; the embeddings are tied if their widths are equal."""

    def __init__(
        self,
        main: PreTrainedConfig,
        generator: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Tensor],
        execution: Execution,
        compiled: bool,
    ) -> None:
        """Build both models and the optimizer.

        Args:
            main: configuration of the main model.
            generator: configuration of the generator.
            tokenizer: gives the special tokens.
            rows: batches of ids (B, S), which are used in turn.
            execution: device and precision.
            compiled: use `torch.compile` on both encoders.
        """
        self.execution = execution
        device = execution.device
        self.generator = _masked_lm(generator, MATMUL_ATTENTION).to(device)
        self.main = _detector(main, 1, MATMUL_ATTENTION).to(device)
        tables = [model.get_input_embeddings() for model in (self.generator, self.main)]
        if tables[0].weight.shape == tables[1].weight.shape:
            self.main.set_input_embeddings(tables[0])
        self.parameters: list[Tensor] = list({p: None for m in (self.generator, self.main) for p in m.parameters()})
        # With bfloat16 weights the optimizer needs float32 masters; otherwise it steps the parameters themselves.
        self.masters = self.parameters
        if execution.weights_dtype == torch.bfloat16:
            self.masters = [parameter.detach().clone() for parameter in self.parameters]
            self.generator.to(torch.bfloat16)
            self.main.to(torch.bfloat16)
        self.optimizer = torch.optim.AdamW(self.masters, lr=1e-4, fused=device.type in ("cpu", "cuda"))
        if compiled:
            self.generator.base_model.compile(dynamic=False)
            self.main.compile(dynamic=False)
        self.mask_id: Any = tokenizer.mask_token_id
        self.special = torch.tensor(tokenizer.all_special_ids, device=device)
        self.batches = cycle(rows)

    def update(self) -> int:
        """Make one optimizer step, and return the number of tokens in its batch."""
        ids_BS = next(self.batches).to(self.execution.device)
        with self.execution.autocast():
            loss = self.loss(ids_BS)
        loss.backward()
        if self.masters is not self.parameters:
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                master.grad, parameter.grad = parameter.grad.float(), None  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masters is not self.parameters:
            with torch.no_grad():
                for parameter, master in zip(self.parameters, self.masters, strict=True):
                    parameter.copy_(master)
        return ids_BS.numel()

    def loss(self, ids_BS: Tensor) -> Tensor:
        """MLM loss of the generator plus 50 times the RTD loss."""
        eligible_BS = ~torch.isin(ids_BS, self.special)
        noise_BS = torch.rand(ids_BS.shape, device=ids_BS.device).masked_fill(~eligible_BS, -1.0)
        positions_BM = noise_BS.topk(round(_RATE * ids_BS.shape[1])).indices
        hidden_BSd = self.generator.base_model(ids_BS.scatter(1, positions_BM, self.mask_id)).last_hidden_state
        hidden_BMd = hidden_BSd.gather(1, positions_BM[:, :, None].expand(-1, -1, hidden_BSd.shape[2]))
        logits_NV = _HEADS[self.generator.config.model_type](self.generator, hidden_BMd).flatten(0, 1)
        originals_N = ids_BS.gather(1, positions_BM).flatten()
        mlm = nn.functional.cross_entropy(logits_NV.float(), originals_N)
        with torch.no_grad():
            uniforms_N = torch.rand(len(originals_N), dtype=torch.float64, device=ids_BS.device)
            tokens_N = sample(logits_NV, 1.0, uniforms_N, originals_N).tokens_N
        corrupted_BS = ids_BS.scatter(1, positions_BM, tokens_N.view_as(positions_BM))
        logits_BS = replaced_logits(self.main(corrupted_BS).logits).float()
        labels_BS = (corrupted_BS != ids_BS).float()
        rtd = nn.functional.binary_cross_entropy_with_logits(logits_BS, labels_BS, weight=eligible_BS, reduction="sum")
        return mlm + _WEIGHT * rtd / eligible_BS.sum()


class TxtaiElectra:
    """txtai's `TokenDetection` with Transformers' Trainer, at their defaults."""

    def __init__(
        self,
        main: PreTrainedConfig,
        generator: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Tensor],
        execution: Execution,
    ) -> None:
        """Build both models. The arguments are those of `PlainElectra`; of `execution`, only the device is used."""
        from txtai.models import TokenDetection  # type: ignore[import-not-found]

        for config in (main, generator):
            for key in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
                if hasattr(config, key):
                    setattr(config, key, 0.1)
        # With txtai 9.14 and Transformers 5 only eager attention works: the class refuses SDPA.
        self.model: Any = TokenDetection(_masked_lm(generator, "eager"), _detector(main, 2, "eager"), tokenizer)
        self.collator = DataCollatorForLanguageModeling(tokenizer)
        self.batch_size = len(rows[0])
        self.rows = [{"input_ids": row.tolist()} for batch in rows for row in batch]
        self.tokens = rows[0].numel()
        self.on_cpu = execution.device.type == "cpu"

    def run(self, updates: int) -> float:
        """The seconds of `updates` updates, after a first one that is not timed."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        ends: list[float] = []

        class StepEnds(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                ends.append(time.perf_counter())

        # The Trainer prints its summary on standard output, which must contain only JSON.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=updates + 1,
                per_device_train_batch_size=self.batch_size,
                use_cpu=self.on_cpu,
                report_to="none",
                save_strategy="no",
                log_level="warning",
                disable_tqdm=True,
            )
            Trainer(
                model=self.model,
                args=arguments,
                data_collator=self.collator,
                train_dataset=self.rows,  # type: ignore[arg-type]  # anything with a length and items
                callbacks=[StepEnds()],
            ).train()
        return ends[-1] - ends[0]


def _masked_lm(config: PreTrainedConfig, attention: str) -> Any:
    return AutoModelForMaskedLM.from_config(config, attn_implementation=attention)


def _detector(config: PreTrainedConfig, labels: int, attention: str) -> Any:
    if config.model_type == "electra":
        return AutoModelForPreTraining.from_config(config, attn_implementation=attention)
    config.num_labels = labels
    return AutoModelForTokenClassification.from_config(config, attn_implementation=attention)
