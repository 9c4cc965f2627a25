"""Scripts of a study for Slurm, without one."""

import dataclasses
import pickle
import re
import signal
import subprocess
import sys
from inspect import signature

import pytest
from datatrove.executor import SlurmPipelineExecutor

from launch.cli import main
from launch.study.progress import Watched, fingerprints, task_state
from launch.study.reading import parse_study
from launch.study.schema import SLURM
from launch.study.slurm import submit
from launch.study.slurm_scripts import Part, StageExecutor, write_script
from launch.study.stages import stages_of
from pipeline_steps.errors import InvalidStudy


TEXT = """\
output: {folder}/out
corpus: hf://datasets/nobody/nothing/*.jsonl
held_out: {{c4: hf://datasets/nobody/nothing/held-out.jsonl}}
samplers: [ask-llm-xl]
rates: [0.2]
models:
  t5-tiny: {{total_tokens: 65536}}
engine:
  kind: slurm
  tasks: {tasks}
  slurm: {slurm}
  cpu: {{partition: cpu, cpus_per_task: 1}}
  training: {training}
"""


@pytest.fixture
def study(tmp_path):
    def make(
        slurm="{partition: gpu, gpus_per_task: 1, mem_per_cpu_gb: 8, cpus_per_task: 4}", training="{}", tasks=2010
    ):
        return parse_study("s.yaml", TEXT.format(folder=tmp_path, slurm=slurm, training=training, tasks=tasks))

    return make


def script(study, name):
    stages = stages_of(study)
    return write_script(study, stages[name], fingerprints(stages)[name])


def options(study, name):
    text = script(study, name).path.read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, flags=re.MULTILINE))


def test_options_are_datatroves():
    assert set(SLURM) <= set(signature(SlurmPipelineExecutor).parameters)


def test_a_stage_gets_what_it_needs(study):
    scores, tokens = options(study(), "scores/ask-llm-xl"), options(study(), "tokens/train")
    assert (scores["partition"], scores["gpus"], scores["cpus-per-task"]) == ("gpu", "1", "4")
    assert (tokens["partition"], tokens.get("gpus"), tokens["cpus-per-task"]) == ("cpu", None, "1")
    assert options(study(), "report")["partition"] == "cpu"
    run = options(study(), "runs/t5-tiny/full-1-seed0")
    assert (run["partition"], run["gpus"], run["mem-per-cpu"], run["nodes"]) == ("gpu", "1", "8G", "1")
    assert "array" not in run


def test_a_training_asks_for_what_it_says_instead(study):
    two = study(training="{nodes: 2, gpus-per-node: 8, mem: 400G}")
    run = options(two, "runs/t5-tiny/full-1-seed0")
    assert (run["nodes"], run["gpus-per-node"], run["mem"]) == ("2", "8", "400G")
    assert run.keys().isdisjoint({"gpus", "mem-per-cpu"})  # sbatch takes one of each kind
    text = script(two, "runs/t5-tiny/full-1-seed0").path.read_text()
    assert "srun --nodes=2 --ntasks=2 --ntasks-per-node=1" in text
    assert options(two, "measured/t5-tiny/full-1-seed0/perplexity")["nodes"] == "1"


def test_gpus_are_asked_for_once(study):
    run = options(study(training="{gres: gpu:8}"), "runs/t5-tiny/full-1-seed0")
    assert run["gres"] == "gpu:8"
    assert "gpus" not in run
    other = "{sbatch_args: {gres: gpu:1, tres-per-task: gres/gpu:1, gres-flags: enforce-binding}}"
    run = options(study(other, training="{gpus-per-node: 8}"), "runs/t5-tiny/full-1-seed0")
    assert run["gpus-per-node"] == "8"
    assert run.keys().isdisjoint({"gres", "tres-per-task"})
    assert "gres-flags" in run
    disk = options(study(training="{gres: lscratch:100}"), "runs/t5-tiny/full-1-seed0")
    assert (disk["gres"], disk["gpus"]) == ("lscratch:100", "1")


def test_options_without_a_value(study):
    own = study("{sbatch_args: {exclusive: '', hold: true, requeue: false}}", training="{oversubscribe: true}")
    for name in ("scores/ask-llm-xl", "runs/t5-tiny/full-1-seed0"):
        found = options(own, name)
        assert (found["exclusive"], found["hold"]) == ("", "")
        assert "partition" not in found  # that of the cluster
    assert found["oversubscribe"] == ""


def test_a_path_that_sbatch_cannot_take(study):
    spaced = dataclasses.replace(study(), output="out/my study")
    with pytest.raises(InvalidStudy, match="has a space in it"):
        script(spaced, "report")


@pytest.mark.parametrize("name", ["scores/ask-llm-xl", "runs/t5-tiny/full-1-seed0", "report"])
@pytest.mark.parametrize("end", ["\n", "\r", "\x1b", "\x00", "\x85", "\u2028"])
@pytest.mark.parametrize(
    ("section", "option", "nested"),
    [
        *(("slurm", option, "") for option in "time partition qos mail_type mail_user env_command".split()),
        *(("slurm", option, "") for option in ("condaenv", "venv_path")),
        ("slurm", "sbatch_args", "comment"),
        ("slurm", "srun_args", "container-image"),
        ("cpu", "partition", ""),
        ("training", "mail-user", ""),
    ],
)
def test_a_line_break_in_an_option_is_refused(study, section, option, nested, end, name):
    value = f"x{end}touch owned"
    options = {option: {nested: value} if nested else value}
    evil = dataclasses.replace(study(), engine=dataclasses.replace(study().engine, **{section: options}))
    place = re.escape(f"s.yaml: engine.{section}.{option}{'.' + nested if nested else ''} has a line break")
    with pytest.raises(InvalidStudy, match=place):
        script(evil, name)


@pytest.mark.parametrize("option", ["a b", "x\ntouch owned", "comment=x", "", "-x", "$(touch owned)"])
@pytest.mark.parametrize("section", ["slurm", "training"])
def test_a_name_of_an_option_that_is_none_is_refused(study, section, option):
    options = {"sbatch_args": {option: "x"}} if section == "slurm" else {option: "x"}
    evil = dataclasses.replace(study(), engine=dataclasses.replace(study().engine, **{section: options}))
    with pytest.raises(InvalidStudy, match="give its name in letters"):
        script(evil, "runs/t5-tiny/full-1-seed0")


def test_no_option_is_a_command(study, tmp_path):
    """The scripts are run by bash, with commands of Slurm that do nothing."""
    evil = f"x; touch {tmp_path}/owned; $(touch {tmp_path}/owned) `touch {tmp_path}/owned`"
    named = dataclasses.replace(study(), output=str(tmp_path / f"$(touch${{IFS}}{'owned'})"))
    bin = tmp_path / "bin"
    bin.mkdir()
    for command in ("srun", "scontrol", "conda"):
        (bin / command).write_text("#!/bin/bash\n")
        (bin / command).chmod(0o755)
    environment = {"PATH": f"{bin}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n"}
    options = [{"condaenv": evil}, {"venv_path": evil}, {"time": evil, "partition": evil, "qos": evil}]
    options += [{"mail_user": evil, "mail_type": evil, "sbatch_args": {"comment": evil}, "srun_args": {"x": evil}}]
    for slurm in options:
        engine = dataclasses.replace(study().engine, slurm=slurm, training={"comment": evil})
        for name in ("scores/ask-llm-xl", "runs/t5-tiny/full-1-seed0"):
            path = script(dataclasses.replace(named, engine=engine), name).path
            subprocess.run(["bash", "-n", path], check=True)
            subprocess.run(["bash", path], env=environment, cwd=tmp_path, capture_output=True)
            assert not (tmp_path / "owned").exists(), (slurm, path.read_text())


def test_a_dry_run_says_which_option_is_wrong(tmp_path, capsys):
    text = TEXT.format(folder=tmp_path, slurm='{time: "1:00\\ntouch owned"}', training="{}", tasks=2)
    (tmp_path / "s.yaml").write_text(text)
    assert main(["run", str(tmp_path / "s.yaml"), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "engine.slurm.time has a line break" in said
    assert "Traceback" not in said


def test_a_task_that_is_out_of_time_again_and_again_ends(study, monkeypatch):
    stages = stages_of(study())
    executor = StageExecutor(study(), stages["tokens/train"], "made")
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "19")
        executor.begin(0)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN  # datatrove's, in a job
        monkeypatch.setenv("SLURM_RESTART_COUNT", "20")
        executor.begin(0)
        with pytest.raises(TimeoutError, match=r"after 20 restarts: give it more \(engine.slurm.time\)"):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_step_has_the_cpus_of_its_job(study):
    def cpus(study, name):
        return re.findall(r"^srun .*--cpus-per-task=(\d+) ", script(study, name).path.read_text(), re.MULTILINE)

    two = study(training="{cpus-per-task: 64}")
    assert cpus(two, "runs/t5-tiny/full-1-seed0") == ["64"]
    assert cpus(two, "scores/ask-llm-xl") == ["4"]
    assert cpus(two, "tokens/train") == cpus(two, "report") == ["1"]
    own = study("{cpus_per_task: 4, srun_args: {cpus-per-task: 3}}", training="{cpus-per-task: 64}")
    assert cpus(own, "runs/t5-tiny/full-1-seed0") == cpus(own, "scores/ask-llm-xl") == ["3"]
    assert cpus(study("{sbatch_args: {cpus-per-task: 6}}"), "scores/ask-llm-xl") == ["6"]


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"), [(0, 0, False), (75, 99, True), (138, 19, True), (138, 20, False), (1, 0, False)]
)
def test_a_job_goes_back_into_the_queue(study, tmp_path, code, restarts, requeued):
    path = script(study(slurm='{env_command: ":"}'), "runs/t5-tiny/full-1-seed0").path
    for name, text in {"srun": f"exit {code}", "scontrol": f"echo $* >> {tmp_path}/scontrol.log"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n", "SLURM_RESTART_COUNT": str(restarts)}
    paths = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", path], env=job | paths, capture_output=True, text=True)
    assert done.returncode == code
    assert ("requeue 7" in (tmp_path / "scontrol.log").read_text()) == requeued
    assert ("out of time again after 20 restarts" in done.stdout) == (code == 138 and not requeued)


@pytest.mark.parametrize(
    ("hook", "line"),
    [
        ("env_command: module load winnow", "module load winnow"),
        ("venv_path: /shared/bin/activate", "source /shared/bin/activate"),
        ("condaenv: mine", "conda activate mine"),
        ("qos: high", sys.prefix),
    ],
)
def test_one_spelling_of_the_environment_for_both_kinds_of_jobs(study, hook, line):
    with_hook = study(slurm=f"{{{hook}, srun_args: {{container-image: some.sqsh}}, sbatch_args: {{account: mine}}}}")
    for name in ("scores/ask-llm-xl", "runs/t5-tiny/full-1-seed0"):
        text = script(with_hook, name).path.read_text()
        assert line in text
        assert re.search(r"^srun .*--container-image=some.sqsh ", text, flags=re.MULTILINE)
        assert options(with_hook, name)["account"] == "mine"


def test_a_long_array_is_several_and_has_what_is_left(study):
    stages = stages_of(study())
    stage, made = stages["tokens/train"], fingerprints(stages)["tokens/train"]
    for task in (0, 1, 5, 1002, *range(2002, 2010)):
        Watched(study(), stage, task, made, "").done()
    parts = write_script(study(), stage, made).parts
    assert [part.arguments for part in parts] == [
        ("--array=2-4,6-1000", "--export=ALL,RUN_OFFSET=0"),
        ("--array=0,2-1000", "--export=ALL,RUN_OFFSET=1"),
    ]
    assert parts[1] == Part(parts[1].arguments, (0, *range(2, 1001)), first=1001, each=1)
    three = study(slurm="{tasks_per_job: 3, workers: 8}")
    (part,) = write_script(three, stage, made).parts
    assert part == Part(("--array=0-667%8", "--export=ALL,RUN_OFFSET=0"), tuple(range(668)), first=0, each=3)


def test_what_is_shipped_is_small_and_knows_no_files_yet(study):
    stages = stages_of(study())
    executor = StageExecutor(study(), stages["tokens/train"], "made")
    executor.ship()
    with executor.logging_dir.open("executor-1-1001.pik", "rb") as file:
        shipped = file.read()
    assert len(shipped) < 10_000
    assert pickle.loads(shipped).pipeline == []


def test_a_task_on_a_node_notes_how_it_ends(study, monkeypatch):
    stages = stages_of(study())
    stage, made = stages["tokens/train"], fingerprints(stages)["tokens/train"]
    executor = StageExecutor(study(), stage, made)
    ends = iter([SystemExit(15), ValueError("bad\nworse")])

    def pipeline_of(*_):
        raise next(ends)

    monkeypatch.setattr("launch.study.stage_executor.pipeline_of", pipeline_of)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(SystemExit):
        executor._run_for_rank(3)
    assert task_state(study(), stage, 3, made).state == "waiting"
    with pytest.raises(ValueError, match="bad"):
        executor._run_for_rank(3)
    found = task_state(study(), stage, 3, made)
    assert (found.state, found.error) == ("failed", "ValueError: bad")
    assert found.log.endswith("/slurm_logs/12_3.out")
    Watched(study(), stage, 3, made, "").done()
    assert not executor._run_for_rank(3).stats


def test_without_slurm(study, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    stages = stages_of(study())
    with pytest.raises(InvalidStudy, match="there is no squeue here: .* login node"):
        list(submit(study(), stages, fingerprints(stages)))


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ("{partitio: gpu}", "line 11: no key 'engine.slurm.partitio': did you mean partition"),
        ("{nodes: 2}", "line 11: no key 'engine.slurm.nodes'"),
        ("{time: 24:00:00}", "line 11: engine.slurm.time must be text, not 86400"),
    ],
)
def test_mistakes_in_options(study, slurm, said):
    with pytest.raises(InvalidStudy, match=said):
        study(slurm=slurm)
