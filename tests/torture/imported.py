"""What commands import, for the process that `trial.Started` forks."""

# ruff: noqa: F401
import transformers.models.modernbert.modeling_modernbert

import fast_electra.cli.pretrain_command
import fast_electra.diagnosis.doctor
import fast_electra.evaluation.contests
import fast_electra.pipelines.corrupt
import fast_electra.pipelines.evaluate
import fast_electra.pipelines.pretrain
import fast_electra.publishing.export
import tests.torture.several
