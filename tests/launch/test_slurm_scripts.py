"""Scripts of a study for Slurm, without one."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from slurm_study import slurm_study

from launch.engines import engine_of
from launch.engines.slurm import write_scripts
from launch.engines.slurm_scripts import Part, parts_of, write_script
from launch.plan import Plan
from launch.records import Watched, task_state, tasks_left
from launch.study_file import parse_study
from launch.worker import main as work
from pipeline_steps.errors import InvalidStudy


@pytest.fixture
def study(tmp_path):
    def make(
        slurm="{partition: gpu, gpus_per_task: 1, mem_per_cpu_gb: 8, cpus_per_task: 4}", training="{}", tasks=2010
    ):
        return Plan.of(parse_study("s.yaml", slurm_study(tmp_path, tasks, slurm, training)))

    return make


def changed(plan, output=None, **engine):
    """The plan with other settings, which no study file is asked about."""
    slurm = engine.pop("slurm", None)
    if slurm is not None:
        engine["slurm"] = plan.study.engine.slurm.__class__.model_construct(**slurm)
    study = plan.study.model_copy(update={"engine": plan.study.engine.model_copy(update=engine)})
    return Plan(study.model_copy(update={"output": output}) if output else study, plan.stages)


def script(plan, name):
    return write_script(plan, plan.stages[name], range(plan.stages[name].tasks))


def options(study, name):
    text = script(study, name).read_text()
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, flags=re.MULTILINE))


def test_a_stage_gets_what_it_needs(study):
    scores, tokens = options(study(), "scores/ask-llm-xl"), options(study(), "tokens/train")
    assert (scores["partition"], scores["gpus"], scores["cpus-per-task"]) == ("gpu", "1", "4")
    assert (tokens["partition"], tokens.get("gpus"), tokens["cpus-per-task"]) == ("cpu", None, "1")
    assert options(study(), "report")["partition"] == "cpu"
    run = options(study(), "runs/t5-tiny/full-1-seed0")
    assert (run["partition"], run["gpus"], run["mem-per-cpu"], run["nodes"]) == ("gpu", "1", "8G", "1")
    assert (run["array"], tokens["array"]) == ("0", "0-1000")
    measured = options(study(), "measured/t5-tiny/full-1-seed0/perplexity")
    assert (measured["partition"], measured["gpus"]) == ("gpu", "1")


def test_memory_is_in_whole_numbers(study):
    assert options(study("{mem_per_cpu_gb: 2.5}"), "report")["mem-per-cpu"] == "2560M"
    whole = options(study("{sbatch_args: {mem: 64G}}"), "report")
    assert whole["mem"] == "64G"
    assert "mem-per-cpu" not in whole  # sbatch takes one of them


def test_a_training_asks_for_what_it_says_instead(study):
    two = study(training="{nodes: 2, gpus-per-node: 8, mem: 400G}")
    run = options(two, "runs/t5-tiny/full-1-seed0")
    assert (run["nodes"], run["gpus-per-node"], run["mem"]) == ("2", "8", "400G")
    assert run.keys().isdisjoint({"gpus", "mem-per-cpu"})  # sbatch takes one of each kind
    text = script(two, "runs/t5-tiny/full-1-seed0").read_text()
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
    spaced = changed(study(), output="out/my study")
    with pytest.raises(InvalidStudy, match="has a space in it"):
        script(spaced, "report")


@pytest.mark.parametrize("name", ["scores/ask-llm-xl", "runs/t5-tiny/full-1-seed0", "report"])
@pytest.mark.parametrize("end", ["\n", "\r", "\x1b", "\x00", "\x85", "\u2028"])
@pytest.mark.parametrize(
    ("section", "option", "nested"),
    [
        *(("slurm", option, "") for option in "time partition qos env_command".split()),
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
    evil = changed(study(), **{section: options})
    place = re.escape(f"s.yaml: engine.{section}.{option}{'.' + nested if nested else ''} has a line break")
    with pytest.raises(InvalidStudy, match=place):
        script(evil, name)


@pytest.mark.parametrize("option", ["a b", "x\ntouch owned", "comment=x", "", "-x", "$(touch owned)"])
@pytest.mark.parametrize("section", ["slurm", "training"])
def test_a_name_of_an_option_that_is_none_is_refused(study, section, option):
    options = {"sbatch_args": {option: "x"}} if section == "slurm" else {option: "x"}
    evil = changed(study(), **{section: options})
    with pytest.raises(InvalidStudy, match="give its name in letters"):
        script(evil, "runs/t5-tiny/full-1-seed0")


def test_no_option_is_a_command(study, tmp_path):
    """The scripts are run by bash, with commands of Slurm that do nothing."""
    evil = f"x; touch {tmp_path}/owned; $(touch {tmp_path}/owned) `touch {tmp_path}/owned`"
    named = str(tmp_path / f"$(touch${{IFS}}{'owned'})")
    bin = tmp_path / "bin"
    bin.mkdir()
    for command in ("srun", "scontrol", "conda"):
        (bin / command).write_text("#!/bin/bash\n")
        (bin / command).chmod(0o755)
    environment = {"PATH": f"{bin}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n"}
    environment |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    options = [{"condaenv": evil}, {"venv_path": evil}, {"time": evil, "partition": evil, "qos": evil}]
    options += [{"sbatch_args": {"comment": evil, "mail-user": evil}, "srun_args": {"x": evil}}]
    for slurm in options:
        for name in ("scores/ask-llm-xl", "runs/t5-tiny/full-1-seed0"):
            path = script(changed(study(), named, slurm=slurm, training={"comment": evil}), name)
            subprocess.run(["bash", "-n", path], check=True)
            subprocess.run(["bash", path], env=environment, cwd=tmp_path, capture_output=True)
            assert not (tmp_path / "owned").exists(), (slurm, path.read_text())


def test_a_dry_run_writes_what_is_left(study):
    plan = study(tasks=2)
    Watched(plan.output, plan.stages["tokens/train"], 0, "").done()
    Watched(plan.output, plan.stages["tokens/c4/c4"], 0, "").done()
    scripts = write_scripts(plan, plan.stages.values())
    assert len(scripts) == len(plan.stages) - 1
    text = (Path(plan.output) / "slurm" / "tokens" / "train.sh").read_text()
    assert "#SBATCH --array=1\n" in text
    with pytest.raises(InvalidStudy, match="engine.slurm.time has a line break"):
        write_scripts(changed(plan, slurm={"time": "1:00\ntouch owned"}), plan.stages.values())


def test_a_step_has_the_cpus_of_its_job(study):
    def cpus(study, name):
        return re.findall(r"^srun .*--cpus-per-task=(\d+) ", script(study, name).read_text(), re.MULTILINE)

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
@pytest.mark.parametrize("name", ["runs/t5-tiny/full-1-seed0", "tokens/train"])
def test_a_job_goes_back_into_the_queue(study, tmp_path, name, code, restarts, requeued):
    path = script(study(slurm='{env_command: ":"}'), name)
    for name, text in {"srun": f"exit {code}", "scontrol": f"echo $* >> {tmp_path}/scontrol.log"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n", "SLURM_RESTART_COUNT": str(restarts)}
    job |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    paths = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", path], env=job | paths, capture_output=True, text=True)
    assert done.returncode == code
    assert ("requeue 7_3" in (tmp_path / "scontrol.log").read_text()) == requeued
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
        text = script(with_hook, name).read_text()
        assert line in text
        assert re.search(r"^srun .*--container-image=some.sqsh ", text, flags=re.MULTILINE)
        assert options(with_hook, name)["account"] == "mine"


def test_a_script_starts_the_worker_by_the_task_and_the_log_of_its_number(study, tmp_path):
    path = script(study(slurm='{env_command: ":"}'), "tokens/train")
    for name, text in {"srun": 'echo "$*"; env', "scontrol": "echo node7"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "12345", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NODELIST": "n"}
    job |= {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", path, "submission", "1001"], env=job, capture_output=True, text=True, check=True)
    said, *environment = done.stdout.splitlines()
    made = study().stages["tokens/train"].made
    output = study().output
    words = f" python -P -m launch.worker s.yaml tokens/train --made {made} --output {output} --task 1004"
    assert said.endswith(f"{words} --log {output}/logs/tokens/train/slurm-12_3.log")
    assert {
        *("PYTHONSAFEPATH=1", "PYTHONUNBUFFERED=1", "SLURM_EXPORT_ENV=ALL", "OMP_NUM_THREADS=1"),
        *("MASTER_ADDR=node7", "MASTER_PORT=22345", "NUM_PROCESSES=16"),
    } <= set(environment)
    assert options(study(), "tokens/train")["output"] == f"{output}/logs/tokens/train/slurm-%A_%a.log"


def test_a_long_array_is_several_and_has_what_is_left(study):
    plan = study()
    stage = plan.stages["tokens/train"]
    for task in (0, 1, 5, 1002, *range(2002, 2010)):
        Watched(plan.output, stage, task, "").done()
    parts = list(parts_of(plan, tasks_left(plan.output, stage)))
    assert [part.array(0) for part in parts] == ["2-4,6-1000", "0,2-1000"]
    assert parts[1] == Part((0, *range(2, 1001)), first=1001)
    assert parts[1].array(8) == "0,2-1000%8"
    eight = study(slurm="{workers: 8, max_array_size: 4000}")
    (path,) = write_scripts(eight, [stage])
    assert "#SBATCH --array=2-4,6-1001,1003-2001%8\n" in path.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_task_that_is_stopped_goes_on_later(study, tmp_path, monkeypatch, number):
    plan = study(tasks=2)
    stage = plan.stages["tokens/train"]
    (tmp_path / "s.yaml").write_text(slurm_study(tmp_path, 2))

    def run_task(*_):
        signal.raise_signal(number)

    monkeypatch.setattr(type(stage), "run_task", run_task)
    with keeping(signal.SIGTERM, signal.SIGUSR1), pytest.raises(SystemExit) as ended:
        work([str(tmp_path / "s.yaml"), "tokens/train", "--task", "1", "--log", "slurm-12_1.log"])
    assert ended.value.code == 128 + number
    found = task_state(plan.output, stage, 1)
    assert (found.state, found.error, found.log) == ("waiting", "", "slurm-12_1.log")


@contextmanager
def keeping(*numbers):
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_without_slurm(study, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InvalidStudy, match="there is no squeue here: .* login node"):
        engine_of(study(), ())


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ("{partitio: gpu}", "line 11, column 11: no key 'partitio': did you mean partition"),
        ("{nodes: 2}", "line 11, column 11: no key 'nodes'"),
        ("{time: 1440}", "line 11, column 17: .* must be text"),
    ],
)
def test_mistakes_in_options(study, slurm, said):
    with pytest.raises(InvalidStudy, match=said):
        study(slurm=slurm)
