"""The settings of an evaluation: a tree of sections like that of a run, and the one list of the options of `evaluate`.

Notable:
- the options and the help of `fast-electra evaluate`, and the keywords of the function `evaluate`, are these fields;
- text with commas stands for a list, so that `--tasks cola,rte` and `tasks=["cola", "rte"]` mean the same;
- what does not go together is refused here, before data or a model is read; scikit-learn is imported inside functions,
  so that the help of the command stays fast.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator

from fast_electra import distributed
from fast_electra.config.checking import merge_layers, validate
from fast_electra.config.reading import layer_of, read_named_file, read_overrides, yaml_value
from fast_electra.config.tree import ExecutionConfig
from fast_electra.errors import ConfigError
from fast_electra.evaluation.recipes import RECIPES, Count, Rate, Recipe
from fast_electra.parts import Section

BUGS = "bugs"
BLIMP = "blimp"
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")


def folder_and_pairs(given: Sequence[Path], option: str) -> tuple[Path | None, Path | None]:
    """Return the folder and the file among the paths of an option (None if missing), recognised by their names.

    Raises:
        ConfigError: there are two folders or two files.
    """
    files = [path for path in given if path.name.lower().endswith(_ENDINGS) and not path.is_dir()]
    folders = [path for path in given if path not in files]
    for several, what in ((folders, "folder of GLUE tasks"), (files, "file of minimal pairs")):
        if len(several) > 1:
            raise ConfigError(f"{option} {several[1]}: {several[0]} is also given; give only one {what}.")
    return next(iter(folders), None), next(iter(files), None)


def _words(given: Any) -> Any:
    return [word.strip() for word in given.split(",") if word.strip()] if isinstance(given, str) else given


def _paths(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _numbers(kind: type[int] | type[float], option: str, such: str) -> BeforeValidator:
    """Reads numbers above 0 with commas between them."""

    def read(given: Any) -> Any:
        if isinstance(given, kind) and not isinstance(given, bool):
            return [given]
        if not isinstance(given, str):
            return given
        try:
            numbers = [kind(word) for word in _words(given)]
        except ValueError:
            numbers = []
        if not numbers or min(numbers) <= 0:
            raise ConfigError(f"{option} {given}: give {such}.")
        return numbers

    return BeforeValidator(read)


def _seeds(given: Any) -> Any:
    """A number is the number of seeds, a list the seeds themselves."""
    if isinstance(given, int):
        if not 1 <= given <= 1000:
            raise ConfigError(f"--seeds {given} is not a number of seeds: give 1 to 1000, or two or more seeds.")
        return list(range(given))
    if not isinstance(given, list | tuple):
        raise ConfigError(f"--seeds {given}: give the number of seeds, or a list of seeds.")
    if len(set(given)) < len(given) or not all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in given):
        raise ConfigError(f"--seeds {' '.join(map(str, given))}: give different whole numbers from 0 to 4,294,967,295.")
    return given


_Words = Annotated[list[str], BeforeValidator(_words)]


class EvaluationConfig(Section):
    """What is evaluated on what, and how."""

    synonyms: ClassVar[Mapping[str, str]] = {
        **{name: f"recipe.{key}" for name, key in Recipe.synonyms.items()},
        **dict.fromkeys(("bf16", "dtype", "fp16"), "execution.precision"),
    }

    model: str
    """A run, a checkpoint of a run (RUN/checkpoints/UPDATE), a model folder or a hub name."""
    tasks: _Words = Field(default=[])
    """Names separated by commas: GLUE tasks (cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli), bugs and blimp."""
    data: Annotated[list[Path], BeforeValidator(_paths)] = Field(default=[])
    """For GLUE, a folder in the layout of the GLUE download; default: load the tasks from the hub with datasets. For
    blimp, a file (.jsonl, also .gz and .xz) with one JSON object per line that has sentence_good and sentence_bad.
    You can give this option twice, once for each."""
    pairs: int | None = None
    """Number of pairs of each set that blimp uses; default: all; for a masked language model about 6,700 in total."""
    train: Path | None = None
    """Training examples of your own task: TSV, CSV, JSON lines or Parquet, or named entities as CoNLL with one word
    and its tag per line."""
    dev: Path | None = None
    """Examples of your task to score; default: a tenth of --train."""
    test: Path | None = None
    """The test set of your task; its scores are reported separately, before those of --dev."""
    text: _Words = Field(default=[])
    """The column with the text, or two columns separated by a comma; not for CoNLL."""
    label: str | None = None
    """The column to predict; not for CoNLL."""
    recipe: Recipe = Recipe()
    """Fine-tuning hyper-parameters: electra, bert, small or fast, or a YAML file; default: small for encoders of width
    up to 512, otherwise electra. Settings such as recipe.epochs=5 change single values."""
    learning_rates: Annotated[list[Rate], _numbers(float, "--learning-rates", "numbers such as 1e-4,3e-4")] = Field(
        default=[]
    )
    """Learning rates, separated by commas, instead of the recipe's. Of several, each task uses the rate with the best
    score on a part of train."""
    examples: Annotated[list[Count], _numbers(int, "--examples", "whole numbers from 1, such as 100,300,1000")] = Field(
        default=[]
    )
    """Number of training examples, the same examples for the model and its baselines; several numbers, separated by
    commas, give a curve."""
    seeds: Annotated[list[int], BeforeValidator(_seeds)] = Field(default=[0, 1, 2])
    """The number of seeds, or two or more seeds; default: 3."""
    probe: bool = False
    """Instead of fine-tuning, fit a linear model on each layer of the frozen encoder; for pairs of texts with numbers
    also measure the cosine of the two texts' mean vectors."""
    skip_untrained: bool = False
    """Leave out the untrained encoder of the same shape in fine-tuning and probing, which takes half of the time."""
    start: str | None = None
    """Start from the encoder of this fine-tuned folder instead of the model's (intermediate task)."""
    overlap: Path | None = None
    """Token shards or text of pre-training: count how many of the tasks' texts also occur there."""
    drop_overlap: bool = False
    """Exclude dev and test examples from the scores if their texts are also in train."""
    predictions: Path | None = None
    """A folder for predictions of the test sets, in the format of GLUE's server."""
    save: bool = False
    """Keep the fine-tuned model of the first seed of each task, under models/ in the folder of the results."""
    workers: int | None = None
    """Number of processes that fine-tune in parallel and share the cores; default: one per CUDA device, or else one.
    Under torchrun its processes fine-tune."""
    out: Path | None = None
    """The folder of the results; default: evaluation/ in the run, or evaluations/NAME in the current folder for other
    models."""
    execution: ExecutionConfig = ExecutionConfig()

    @classmethod
    def of(cls, options: Mapping[str, Any], overrides: Sequence[str] = ()) -> Self:
        """The checked settings.

        Args:
            options: of the fields; a `recipe` may be a name, a YAML file or a mapping.
            overrides: section.key=value, over the options.

        Raises:
            ConfigError: anything that can't be, as one sentence.
        """
        options, layers = dict(options), [read_overrides(overrides)]
        recipe = options.get("recipe")
        if recipe in ("auto", *RECIPES):
            options["recipe"] = {"name": recipe}
        elif isinstance(recipe, str | Path):
            layers.insert(0, read_named_file(options.pop("recipe"), "neither a recipe", RECIPES, ("recipe",)))
            validate(read_named_file(recipe, "neither a recipe", RECIPES), Recipe)  # names keys as the file does
        layer = layer_of(options, "the options")
        for above in layers:
            layer = merge_layers(layer, above, layer.name, cls)
        return validate(layer, cls)

    @property
    def glue_folder(self) -> Path | None:
        """The folder of the GLUE download; None: the hub."""
        return folder_and_pairs(self.data, "--data")[0]

    @property
    def pairs_file(self) -> Path | None:
        """The file of minimal pairs."""
        return folder_and_pairs(self.data, "--data")[1]

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        from fast_electra.evaluation.evaluations import results_folder

        return self.out or results_folder(self.model)

    @property
    def asked_recipe(self) -> Recipe:
        """The recipe with `learning_rates` in it."""
        if not self.learning_rates:
            return self.recipe
        return self.recipe.model_copy(update={"learning_rate": self.learning_rates})

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        from fast_electra.evaluation.conll import is_conll
        from fast_electra.evaluation.glue import GLUE
        from fast_electra.evaluation.own_files import task_name

        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers}: give a number from 1.")
        if self.workers is not None and distributed.size() > 1:
            raise ConfigError("--workers: torchrun has started the processes that fine-tune; leave this option out.")
        if not self.tasks and self.train is None:
            raise ConfigError("nothing to evaluate on: give --tasks, or --train with --text and --label.")
        known = [*GLUE, BUGS, BLIMP]
        for name in self.tasks:
            if name not in known:
                close = difflib.get_close_matches(name.lower().replace("-", ""), known, n=1)
                remedy = f"did you mean {close[0]}?" if close else f"the tasks are {', '.join(known)}."
                raise ConfigError(f"--tasks: {name} is no task; {remedy}")
            if self.tasks.count(name) > 1:
                raise ConfigError(f"--tasks: {name} is there twice.")
        if BLIMP in self.tasks and self.pairs_file is None:
            raise ConfigError(
                "--tasks blimp needs its pairs: give --data FILE.jsonl, a JSON object a line with sentence_good and "
                "sentence_bad (also .jsonl.gz and .jsonl.xz)."
            )
        if BLIMP not in self.tasks and self.pairs_file is not None:
            raise ConfigError(f"--data {self.pairs_file} is a file of minimal pairs: give --tasks blimp too.")
        if self.pairs is not None and (self.pairs < 1 or BLIMP not in self.tasks):
            raise ConfigError(
                f"--pairs {self.pairs}: give a number from 1: --tasks blimp takes this many pairs of each set."
            )
        own = {"--dev": self.dev, "--test": self.test, "--text": self.text, "--label": self.label}
        if self.train is None and (given := [option for option, value in own.items() if value]):
            raise ConfigError(f"{given[0]} is about a task of your own: give --train too.")
        if self.train is not None and (name := task_name(self.train)) in known:
            raise ConfigError(f"{self.train} is called like the task {name}; rename the file.")
        for option, path in {"--train": self.train, "--dev": self.dev, "--test": self.test}.items():
            if path is not None and not path.is_file():
                raise ConfigError(f"{option} {path} is no file; name a table or a CoNLL file.")
        if self.train is not None and not (self.text and self.label) and not is_conll(self.train):
            raise ConfigError(
                "--train needs --text and --label: the columns to read and to predict. A CoNLL file needs none, and is "
                "one with a word and its tag (O, B-…, I-…) a line."
            )
        fine_tuning = {
            "--recipe": self.recipe.model_fields_set,
            "--learning-rates": self.learning_rates,
            "--examples": self.examples,
            "--start": self.start,
            "--save": self.save,
            "--predictions": self.predictions,
            "--seeds": "seeds" in self.model_fields_set,
        }
        if self.probe and (given := [option for option, value in fine_tuning.items() if value]):
            raise ConfigError(f"{given[0]} is about fine-tuning, and --probe trains no encoder: leave one of them out.")
        if self.predictions is not None and len(self.examples) > 1:
            raise ConfigError("--predictions is of one fine-tuned model a task: give one number to --examples.")
        if self.predictions is not None and (
            other := [*({BUGS, BLIMP} & {*self.tasks}), *([self.train] if self.train else [])]
        ):
            raise ConfigError(f"--predictions writes files for GLUE's server, which has no task {other[0]}.")
        of_training = fine_tuning | {
            "--probe": self.probe,
            "--overlap": self.overlap,
            "--drop-overlap": self.drop_overlap,
            "--workers": self.workers,
        }
        if self.tasks == [BLIMP] and self.train is None:
            if given := [option for option, value in of_training.items() if value]:
                raise ConfigError(f"{given[0]} is for tasks with training examples: leave it out, or add such a task.")
            if self.glue_folder is not None:
                raise ConfigError(f"--data {self.glue_folder} is for tasks of GLUE: leave it out, or add such a task.")
        for option, folder in {"--out": self.out, "--predictions": self.predictions}.items():
            nearest = next((path for path in (folder, *folder.parents) if path.exists()), None) if folder else None
            if nearest is not None and not nearest.is_dir():
                raise ConfigError(f"{option} {folder}: {nearest} is a file; name a folder.")
        return self


def setup_name(config: EvaluationConfig, recipe: Recipe | None) -> str:
    """What tells an evaluation from others of the same task, where it is learned by `recipe` (None: by a probe)."""
    if recipe is None:
        return "probe"
    words = [str(recipe.name)]
    for key, value in config.asked_recipe.given.items():
        values = value if isinstance(value, list) else [value]
        shown = [f"{one:g}" if isinstance(one, float) else yaml_value(one) for one in values]
        words.append(f"{key.replace('_', ' ')} {' or '.join(shown)}")
    if config.start is not None:
        words.append(f"started from {_start_name(config.start)}")
    return ", ".join(words)


def _start_name(start: str) -> str:
    """The name of a start without what identifies its model, so that two models can have starts of equal names.

    A model that `save` keeps has the name of its cell: task, recipe, seed, and a digest. That of a run is the run's
    folder model/.
    """
    path = Path(start).resolve()
    if not path.exists():
        return start
    return path.parent.name if path.name == "model" else re.sub(r"-[0-9a-f]{12}$", "", path.name)
