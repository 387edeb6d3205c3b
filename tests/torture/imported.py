"""What commands import, for the process that `trial.Started` forks."""

import fast_electra.evaluation.contests
import fast_electra.pipelines.corrupt
import fast_electra.pipelines.evaluate
import fast_electra.pipelines.pretrain
import fast_electra.publishing.export  # noqa: F401
