"""The configuration and its commands: what is read, what is refused and in which words, what is written."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fast_electra.cli.main import app, main
from fast_electra.config import config_schema, dump_config, help_for_keys, load_config, preset_names, resolve
from fast_electra.config.keys import keys, nearest_key
from fast_electra.config.tree import BUDGETS, Config
from fast_electra.corruption.schedules import ConstantSchedule, ExponentialSchedule
from fast_electra.errors import ConfigError

FILE = """\
main:
  layers: 2
  hidden_size: 64
  heads: 2
  intermediate_size: 128
optimizer:
  learning_rate: 1e-3
training:
  updates: 10
  batch_size: 4
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes text as `a.yaml` in the working folder, so that sentences name the file as people give it."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("a.yaml").write_text(text, encoding="utf-8")
        return "a.yaml"

    return write


def refusal(source: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(source, overrides)
    return str(refused.value)


# What is read


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_is_written_back_exactly(name: str, write) -> None:
    config = load_config(name)
    assert load_config(write(dump_config(config))) == config


def test_the_presets_are_those_that_the_documentation_names() -> None:
    assert preset_names() == [
        *("electra-2020", "electra-small", "modern-base", "modern-small", "paper-base", "paper-large"),
        *("quickstart", "quickstart-auxiliary", "text-hour", "text-hour-auxiliary"),
    ]


def test_overrides_win_over_the_file_over_the_preset_over_the_defaults(write) -> None:
    file = write("preset: electra-small\ntraining:\n  batch_size: 16\n  seed: 3\n")
    config = load_config(file, ["training.seed=4"])
    assert (config.training.seed, config.training.batch_size) == (4, 16)
    assert config.optimizer.learning_rate == 5e-4
    assert config.training.log_every == keys()["training.log_every"].default


def test_scalars_are_those_of_yaml_1_2(write) -> None:
    config = load_config(
        write(FILE.replace("1e-3", "1e-4")),
        [
            "data.text_field=on",
            "auxiliary.model=12:30",
            "data.shards=2026-01-31",
            "main.dropout=0",
            "training.flops=1e15",
        ],
    )
    assert config.optimizer.learning_rate == 1e-4
    assert (config.data.text_field, config.auxiliary.model) == ("on", "12:30")
    assert config.data.shards == Path("2026-01-31")
    assert config.main.dropout == 0.0
    assert config.training.flops == 1e15


def test_overrides_are_lists_mappings_and_empty_values_too() -> None:
    config = load_config(
        "quickstart",
        ["data.sources=[a, b/c.txt]", "main.options={norm_eps: 1e-6}", "optimizer.clip=", "training={seed: 7}"],
    )
    assert config.data.sources == ["a", "b/c.txt"]
    assert config.main.options["norm_eps"] == 1e-6
    assert config.optimizer.clip is None
    assert config.training.seed == 7


def test_json_is_an_override_whatever_the_characters() -> None:
    name = 'a "b" \\ \n 😀 é \u2028'
    assert load_config("quickstart", [f"auxiliary.model={json.dumps(name)}"]).auxiliary.model == name


def test_choosing_another_kind_drops_the_settings_of_the_former() -> None:
    base = resolve({"preset": "quickstart", "corruption": {"schedule": {"initial": 3, "tau": 0.5}}})
    assert base.corruption.schedule == ExponentialSchedule(initial=3.0, tau=0.5)
    constant = load_config("quickstart", ["corruption.schedule.kind=constant"])
    assert constant.corruption.schedule == ConstantSchedule(initial=1.0)
    same = load_config("modern-small", ["corruption.schedule.kind=exponential", "corruption.schedule.tau=0.3"])
    assert same.corruption.schedule == ExponentialSchedule(initial=2.0, tau=0.3)


def test_the_order_of_overrides_means_nothing() -> None:
    overrides = ["corruption.schedule.initial=1.5", "corruption.schedule.kind=constant", "training.seed=2"]
    assert load_config("quickstart", overrides) == load_config("quickstart", overrides[::-1])


def test_another_budget_replaces_the_presets_and_another_architecture_its_options() -> None:
    config = load_config("electra-small", ["training.hours=2", "main.architecture=bert"])
    assert (config.training.hours, config.training.updates, config.main.options) == (2.0, None, {})
    assert load_config("electra-small", ["training.updates=null", "training.hours=2"]).training.hours == 2.0
    assert load_config("electra-small", ["main.options.type_vocab_size=1"]).main.options == {
        "embedding_size": 128,
        "type_vocab_size": 1,
    }


def test_an_empty_section_changes_nothing(write) -> None:
    assert load_config(write(FILE + "data:\ncorruption:\n  schedule:\n")) == load_config(write(FILE))


def test_relative_paths_stay_as_given(write) -> None:
    assert load_config(write(FILE + "data:\n  shards: ../shards\n")).data.shards == Path("../shards")


def test_a_mapping_is_resolved_like_a_file() -> None:
    config = resolve({"preset": "quickstart", "data": {"shards": Path("s")}}, ["training.seed=1"])
    assert config == load_config("quickstart", ["data.shards=s", "training.seed=1"])
    with pytest.raises(ConfigError, match=r"^stage: unknown key training.steps; did you mean training.updates\?$"):
        resolve({"preset": "quickstart", "training": {"steps": 3}}, name="stage")


# What is refused, and in which words


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "  hidden_size",
            "  hiden_size",
            "a.yaml, line 3: unknown key main.hiden_size; did you mean main.hidden_size?",
        ),
        ("main:", "model:", "a.yaml, line 2: unknown key model.layers; did you mean main.layers?"),
        ("  updates", "  lr", "a.yaml, line 9: unknown key training.lr; did you mean optimizer.learning_rate?"),
        ("  heads: 2", "  layers: 3", "a.yaml, line 4: main.layers is given twice, first in line 2; keep one."),
        ("layers: 2", "layers: two", "a.yaml, line 2: main.layers must be a whole number, not two."),
        (
            "updates: 10",
            "updates: 1e3",
            "a.yaml, line 9: training.updates must be a whole number, not 1e3; write 1000.",
        ),
        ("1e-3", "-1e-3", "a.yaml, line 7: optimizer.learning_rate must be greater than 0, not -1e-3."),
        ("1e-3", "'1e-3'", "a.yaml, line 7: optimizer.learning_rate must be a number, not 1e-3."),
        ("1e-3", ".nan", "a.yaml, line 7: .nan is not a finite number; give a finite one."),
        ("1e-3", "1e999", "a.yaml, line 7: 1e999 is not a finite number; give a finite one."),
        (
            "heads: 2",
            "heads: 3",
            "a.yaml, line 3; a.yaml, line 4: main: hidden_size (64) must be divisible by heads (3).",
        ),
        ("layers: 2", "layers: !!int 2", "a.yaml, line 2: the tag !!int is not read; leave it out."),
        ("layers: 2", "layers: &n 2", "a.yaml, line 2: anchors and aliases are not read; write the value out."),
        ("main:", "? [a]\n: 1\nmain:", "a.yaml, line 1: a key must be plain text."),
        (
            "layers: 2",
            "layers: 2: 3",
            "a.yaml, line 2: not valid YAML (mapping values are not allowed here); "
            "mend the line, or put its value in quotes.",
        ),
        (
            "main:",
            "preset: quickstrat\nmain:",
            "a.yaml, line 1: preset must be one of electra-2020, electra-small, modern-base, modern-small, paper-base, "
            "paper-large, quickstart, quickstart-auxiliary, text-hour, text-hour-auxiliary, not quickstrat "
            "(did you mean quickstart?).",
        ),
        (
            "  batch_size: 4\n",
            "",
            "a.yaml: training.batch_size must be given; write for example training.batch_size=32 on the command line, "
            "or `preset: quickstart` in the file.",
        ),
        (
            "optimizer:\n  learning_rate: 1e-3\ntraining:\n  updates: 10\n  batch_size: 4\n",
            "",
            "a.yaml: optimizer.learning_rate, training.batch_size and training.updates must be given; write for "
            "example optimizer.learning_rate=0.002 training.batch_size=32 training.updates=1200 on the command line, "
            "or `preset: quickstart` in the file.",
        ),
        (
            "  updates: 10\n",
            "",
            "a.yaml, line 8: training: give the budget as exactly one of updates, tokens, flops, hours.",
        ),
        (
            "  updates: 10\n",
            "  updates: 10\n  hours: 1\n",
            "a.yaml, line 9; a.yaml, line 10: training: give the budget as exactly one of updates, tokens, flops, "
            "hours (given: updates, hours).",
        ),
        (
            "main:",
            "corruption:\n  schedule:\n    kind: cosin\nmain:",
            "a.yaml, line 3: corruption.schedule.kind must be one of exponential, constant, linear, "
            "polynomial, stepwise, cosine, adaptive, not cosin (did you mean cosine?).",
        ),
        (
            "main:",
            "corruption:\n  schedule:\n    kind: constant\n    tau: 1\nmain:",
            "a.yaml, line 4: corruption.schedule.tau belongs to kind exponential, and kind is constant "
            "(a.yaml, line 3); leave tau out, or change corruption.schedule.kind.",
        ),
    ],
)
def test_a_wrong_file_gets_one_sentence_with_its_line(write, old: str, new: str, sentence: str) -> None:
    assert old in FILE
    assert refusal(write(FILE.replace(old, new, 1))) == sentence


@pytest.mark.parametrize(
    ("override", "rest"),
    [
        ("training.lr=1e-3", "unknown key training.lr; did you mean optimizer.learning_rate?"),
        ("model.hiden_size=3", "unknown key model.hiden_size; did you mean main.hidden_size?"),
        ("corruption.masking_rate=0.2", "unknown key corruption.masking_rate; did you mean corruption.masking.rate?"),
        (
            "zzz=1",
            "unknown key zzz; the sections are data, main, auxiliary, objective, corruption, optimizer, training, "
            "execution.",
        ),
        ("main.dropout=1.5", "main.dropout must be less than 1, not 1.5."),
        ("training.seed=-1", "training.seed must be at least 0, not -1."),
        ("training.seed=true", "training.seed must be a whole number, not true."),
        ("training.compile=1", "training.compile must be true or false or auto or graphs, not 1."),
        ("training.batch_size=", "training.batch_size must be a whole number, not empty."),
        ("training=5", "training must be a section, not 5; give its keys, such as training.updates."),
        ("objective=mlm", "objective must be a section, not mlm; give its keys, such as objective.kind."),
        ("main.options=3", "main.options must be a mapping, not 3."),
        ("data.attention=pack", "data.attention must be one of packed, document, not pack (did you mean packed?)."),
        ("data.sources=texts", "data.sources must be a list, not texts; write 'data.sources=[texts]'."),
        ("data.sources=[1]", "data.sources[0] must be text, not 1; write 'data.sources=[\"1\"]'."),
        ("auxiliary.model=2024", "auxiliary.model must be text, not 2024; write 'auxiliary.model=\"2024\"'."),
        ("auxiliary.model=*x", "not valid YAML (found undefined alias 'x'); write 'auxiliary.model=\"*x\"'."),
        ("auxiliary.model=!!python/name:os.system x", "the tag !!python/name:os.system is not read; leave it out."),
        ("main.options={a: {b: .inf}}", ".inf is not a finite number; give a finite one."),
        ("preset=quickstart", "a preset isn't set by an override; give it as the configuration, or in the file."),
        ("training.seed", "write it as section.key=value, for example training.seed=1."),
        ("=1", "write it as section.key=value, for example training.seed=1."),
    ],
)
def test_a_wrong_override_gets_one_sentence_that_repeats_it(override: str, rest: str) -> None:
    assert refusal("quickstart", override) == f"override {override}: {rest}"


def test_a_combination_names_both_places() -> None:
    assert refusal("quickstart", "main.heads=3").endswith(
        "; override main.heads=3: main: hidden_size (256) must be divisible by heads (3)."
    )
    assert refusal("quickstart", "main.heads=3").startswith("preset quickstart, line ")
    assert refusal("quickstart", "training.micro_batch_size=5").endswith(
        "; override training.micro_batch_size=5: training: batch_size (32) must be a multiple of micro_batch_size (5)."
    )
    assert refusal("quickstart", "corruption.schedule.tau=1", "corruption.schedule.kind=constant") == (
        "override corruption.schedule.tau=1: corruption.schedule.tau belongs to kind exponential, and kind is constant "
        "(override corruption.schedule.kind=constant); leave tau out, or change corruption.schedule.kind."
    )


def test_a_key_given_twice_is_refused() -> None:
    assert refusal("quickstart", "training.seed=1", "training={seed: 2}") == (
        "override training={seed: 2}: training is given twice, also by override training.seed=1; keep one."
    )
    assert refusal("quickstart", "training.hours=1", "training.tokens=1") == (
        "override training.hours=1; override training.tokens=1: training: give the budget as exactly one of "
        "updates, tokens, flops, hours (given: tokens, hours)."
    )


def test_a_configuration_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    presets = ", ".join(preset_names())
    assert refusal("quickstrat") == (f"quickstrat is neither a preset ({presets}) nor a file; did you mean quickstart?")
    missing = tmp_path / "none.yaml"
    assert refusal(missing) == (
        f"{missing} is neither a preset ({presets}) nor a file; give one of them, or the path of a YAML file."
    )
    assert refusal(tmp_path) == f"{tmp_path} is a folder; give a YAML file."
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert refusal(tmp_path / "run").endswith(f"give a YAML file, for example {tmp_path / 'run' / 'config.yaml'}.")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("# caf\xe9\n".encode("latin-1"))
    assert refusal(latin) == f"{latin}: byte 5 is not UTF-8; save the file as UTF-8."
    latin.write_text("- 1\n")
    assert refusal(latin) == (
        f"{latin}: a configuration is a mapping of sections; write for example `training:` first."
    )


def test_an_empty_file_names_every_key_that_must_be_given(write) -> None:
    sentence = refusal(write("# nothing\n"))
    required = [key.name for key in keys().values() if key.required]
    assert all(name in sentence for name in required)


def test_suggestions_name_keys_of_the_tree() -> None:
    assert set(Config.synonyms.values()) <= set(keys())
    assert {f"training.{name}" for name in BUDGETS} <= set(keys())
    assert nearest_key("bs") == "training.batch_size"
    assert nearest_key("training.num_hidden_layers") == "main.layers"
    assert nearest_key("qqqq.zzzz") is None


@pytest.mark.parametrize(("key", "value"), [("device", "cpu"), ("precision", "float32"), ("threads", 1)])
def test_a_key_that_was_one_of_training_is_read_as_that_of_execution(tmp_path, key: str, value: object) -> None:
    assert getattr(load_config("quickstart", [f"training.{key}={value}"]).execution, key) == value
    (tmp_path / "a.yaml").write_text(f"preset: quickstart\ntraining:\n  {key}: {value}\n")
    assert getattr(load_config(tmp_path / "a.yaml").execution, key) == value
    assert "execution.threads must be at least 1" in refusal("quickstart", "training.threads=0")


# What is written


def test_odd_values_survive_a_dump(write) -> None:
    odd = [
        "null",
        "true",
        "1e-3",
        "0x1f",
        "~",
        " a",
        "a: b",
        "#",
        "é😀",
        "\x00\x7f\x85\u2028\ufeff",
        "'\"\\",
        "",
        "-",
        "a,b]",
    ]
    options = {"list": [*odd, None, 1, 1.5, 1e22, 1e-7, True, [], {}], "a: #": {"b": odd[0]}, "empty": None}
    config = resolve({"preset": "electra-small", "main": {"options": options}, "data": {"sources": odd}})
    assert {name: config.main.options[name] for name in options} == options
    assert load_config(write(dump_config(config))) == config


def test_a_dump_explains_every_described_key() -> None:
    text = dump_config(load_config("quickstart"))
    assert "  learning_rate: 0.002        # peak learning rate\n" in text
    for key in keys().values():
        if key.description and not key.kinds:
            assert key.description in text, key.name


def test_help_names_every_key_with_its_default_or_that_it_is_required() -> None:
    text = help_for_keys(width=200)
    assert (
        "corruption.schedule.tau=0.1             decay constant, as a share of the run; only with kind exponential"
        in text
    )
    assert "objective.kind=fast_electra             mlm | fast_electra" in text
    assert all(key.name in text for key in keys().values())
    assert max(map(len, help_for_keys(width=80).splitlines())) <= 80


def test_the_schema_describes_keys_and_presets_and_requires_none() -> None:
    schema = config_schema()
    assert schema["properties"]["preset"]["enum"] == preset_names()
    assert schema["$defs"]["AdamWOptimizer"]["properties"]["learning_rate"]["description"] == "peak learning rate"
    assert "required" not in json.dumps(schema).replace('"required; ', "")


# The commands


def test_config_show_prints_what_load_config_reads(write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "modern-small", "training.seed=3"]) == 0
    config = load_config("modern-small", ["training.seed=3"])
    assert load_config(write(capsys.readouterr().out)) == config
    assert main(["config", "show", "modern-small", "training.seed=3", "--json"]) == 0
    assert resolve(json.loads(capsys.readouterr().out)) == config


def test_config_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["config", "show", "quickstart", "training.lr=1"], "override training.lr=1: unknown key training.lr; "
         "did you mean optimizer.learning_rate?"),
        (["config", "show", "quickstart", "--jsn"], "Unknown option: --jsn. Did you mean --json?"),
        (["config", "show", "quickstart", "--training.seed=3"], "Unknown option: --training.seed=3; write settings "
         "without dashes: training.seed=value."),
        (["config", "show"], 'Command "config show" parameter CONFIG requires an argument.'),
        (["confg"], "unknown command confg; did you mean config?"),
        (["config", "xyz"], "unknown command xyz; the commands are plot, schema, show."),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_on_standard_error_and_status_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_exit_statuses_tell_interruption_and_failure_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fast_electra.cli.config_commands.config_schema", interrupt)
    assert main(["config", "schema"]) == 130
    sentence = "interrupted; no partial files are left; start it again with: fast-electra config schema\n"
    assert capsys.readouterr().err == sentence
    monkeypatch.setattr("fast_electra.cli.config_commands.config_schema", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["config", "schema"])


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import fast_electra

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fast-electra {fast_electra.__version__}\n"


def test_the_commands_of_the_first_release_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("quickstart", "data", "pretrain", "inspect", "report", "export", "config"):
        assert name in shown
        assert name in app


def test_pretrain_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in keys())
    assert all(name in shown for name in preset_names())


def _run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done, time.perf_counter() - start


def test_the_module_runs_as_a_program_and_refuses_in_well_under_two_seconds() -> None:
    done, _ = _run("-m", "fast_electra", "config", "show", "quickstart")
    assert done.returncode == 0, done.stderr
    assert done.stdout == dump_config(load_config("quickstart"))
    done, seconds = _run("-m", "fast_electra", "config", "show", "quickstart", "training.lr=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert seconds < 2  # 0.6 s on an idle core; a shared one doubles it


def test_help_and_configuration_load_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from fast_electra.cli.main import main; main(['--help']); main(['pretrain', '--help']); "
        "main(['config', 'show', 'quickstart']); main(['confg']); print({'torch', 'transformers'} & set(sys.modules))"
    )
    done, _ = _run("-c", code)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["objective.kind=mlm"], "objective.kind=mlm has none: set main.start=fresh"),
        (
            [
                *("objective.kind=electra", "main.start=fresh", "main.embeddings=copied"),
                *(f"objective.generator.{key}" for key in ("layers=1", "hidden_size=64", "heads=1")),
                "objective.generator.intermediate_size=64",
            ],
            "set main.embeddings=fresh, or use objective.sharing",
        ),
        (["auxiliary.kind=unigram", "main.start=auxiliary"], "main.start=auxiliary needs a model"),
        (["auxiliary.kind=uniform", "main.start=fresh", "auxiliary.layers=2"], "auxiliary.layers=2 needs a model"),
        (
            [
                *("auxiliary.kind=ngram", "main.start=fresh", "corruption.schedule.initial=2"),
                *("corruption.augmentation.kind=dropout", "corruption.augmentation.strength=0.3"),
            ],
            "corruption.augmentation.kind=dropout acts inside a model",
        ),
        (["main.embeddings=auxiliary_plus_delta", "main.freeze=encoder"], "which main.freeze=encoder forbids"),
        (
            ["main.embeddings=auxiliary_plus_delta", "objective.corrective_weight=0.1"],
            "main.embeddings=auxiliary_plus_delta has two",
        ),
        (["auxiliary.kind=prefix_lm", "data.attention=document"], "not possible with auxiliary.kind=prefix_lm"),
        (["auxiliary.model=null"], "auxiliary.model is not given"),
        (["corruption.sampler=race", "corruption.race_interval=[1,1.2]"], "outside of corruption.race_interval"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_shards_are_read(overrides, sentence, tmp_path, capsys):
    place = [f"data.shards={tmp_path / 'none'}", "auxiliary.model=none"]
    place = [setting for setting in place if setting.partition("=")[0] not in {o.partition("=")[0] for o in overrides}]
    assert main(["pretrain", "quickstart", *place, *overrides, "--run", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err


def test_the_config_yaml_of_an_earlier_version_is_read(tmp_path):
    config = load_config("quickstart", ["execution.threads=1", "execution.precision=float32", "execution.device=cpu"])
    text, _ = re.subn(r"\nexecution:.*\n", "", dump_config(config))  # its keys follow those of `training`
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == config


def test_a_dotted_key_of_a_file_is_to_be_a_section(tmp_path):
    (tmp_path / "a.yaml").write_text("preset: quickstart\nexecution.threads: 2\n")
    with pytest.raises(ConfigError, match=r"line 2: execution\.threads is no key of YAML; write `execution:`"):
        load_config(tmp_path / "a.yaml")


def test_one_setting_may_be_given_as_text():
    assert load_config("quickstart", "training.seed=4").training.seed == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: " + "[" * 600 + "]" * 600, "line 2: lists and mappings are nested more than 30 deep; no setting is."),
        ("x: " + "{a: " * 60_000, "line 2: lists and mappings are nested more than 30 deep; no setting is."),
        ("- " * 600, "line 2: "),
        ("? " * 600, "line 2: "),
        (f"training: {{seed: {'9' * 5000}}}", "line 2: a number of 5,000 characters is too long; shorten it."),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "line 2: anchors and aliases are not read; write the value out."),
        ("a: &x [*x]", "line 2: anchors and aliases are not read; write the value out."),
    ],
)
def test_yaml_that_was_made_to_do_harm_is_one_sentence(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(f"preset: quickstart\n{text}\n")
    assert main(["config", "show", str(tmp_path / "c.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/c.yaml, {said}")
    assert error.count("\n") == 1


def test_lone_carriage_returns_end_lines(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("preset: quickstart\rtraining:\r  seed: 3\r", newline="")
    assert load_config(tmp_path / "c.yaml").training.seed == 3


def test_a_number_of_thousands_of_digits_on_the_command_line_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "show", "quickstart", f"optimizer.learning_rate={'9' * 5000}"]) == 2
    assert "a number of 5,000 characters is too long; shorten it." in capsys.readouterr().err
