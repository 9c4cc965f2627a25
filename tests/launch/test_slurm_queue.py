"""What `winnow run` submits to a Slurm, without one."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from slurm_study import FULL, RUN, SCORES, SELECTION, TOKENS, slurm_study

from launch.engines import engine_of
from launch.engines.slurm import lost
from launch.plan import Plan
from launch.records import Watched, task_state, tasks_left
from launch.runner import check_needs, submit_all
from launch.study_file import parse_study
from pipeline_steps.errors import InvalidStudy


class Slurm:
    """Jobs are rows of (id, number, state, reason, command)."""

    def __init__(self):
        self.rows, self.waits, self.arrays, self.firsts = [], {}, {}, {}
        self.calls = 0
        self.at = {}  # what happens at the n-th sbatch
        self.later = []  # what happens after each squeue

    def __call__(self, *command):
        return CompletedProcess(command, *getattr(self, command[0])(*command[1:]))

    def sbatch(self, *arguments):
        self.calls += 1
        if self.at.get(self.calls) == "refused":
            return 1, "", "sbatch: error: Batch job submission failed: Job violates policy"
        options = dict(one.removeprefix("--").partition("=")[::2] for one in arguments if one.startswith("--"))
        job = str(100 + self.calls)
        self.arrays[job], self.firsts[job] = options["array"], arguments[-1]
        self.waits[job] = options.get("dependency", "").removeprefix("afterok:").split(":")
        for part in options["array"].split(","):
            first, _, last = part.partition("-")
            numbers = [first] if not last else [str(one) for one in range(int(first), int(last) + 1)]
            self.rows += [[job, one, "PD", "None", " ".join(arguments[-3:])] for one in numbers]
        if self.at.get(self.calls) == "killed":
            raise KeyboardInterrupt
        return 0, f"{job}\n", ""

    def squeue(self, *arguments):
        shown = "".join("|".join(row) + "\n" for row in self.rows)
        if self.later:
            self.later.pop(0)()
        return 0, shown, ""

    def scontrol(self, what, job, dependency):
        assert what == "update"
        self.waits[job.removeprefix("JobId=")] = dependency.removeprefix("Dependency=afterok:").split(":")
        return 0, "", ""

    def over(self, *jobs):
        """Jobs, or numbers of arrays as 101_0, leave."""
        self.rows = [row for row in self.rows if row[0] not in jobs and "_".join(row[:2]) not in jobs]


@pytest.fixture
def slurm(monkeypatch):
    found = Slurm()
    monkeypatch.setattr("launch.engines.slurm._run", found)
    monkeypatch.setattr("launch.engines.slurm.time.sleep", lambda _: None)
    return found


@pytest.fixture
def study(tmp_path):
    def make(tasks=3, longest=2):
        return Plan.of(parse_study("s.yaml", slurm_study(tmp_path, tasks, f"{{max_array_size: {longest}}}")))

    return make


def run(plan, *only):
    """Ids by name of what was submitted, and names of what was in the queue."""
    chosen = [stage for name, stage in plan.stages.items() if not only or name in only]
    engine = engine_of(plan, chosen)
    check_needs(plan, chosen, engine)
    lines = []
    submit_all(plan, chosen, engine, lines.append)
    words = [line.split() for line in lines]
    new = {name: jobs.split(",") for jobs, name, *more in words if not more or more[0] == "(some"}
    return new, {name for _, name, *_ in words} - new.keys()


def queued(plan):
    """Names of stages that are not done, and whose missing tasks all wait or run."""
    engine = engine_of(plan, ())
    left = {stage: set(tasks_left(plan.output, stage)) for stage in plan.stages.values()}
    return {stage.name for stage, tasks in left.items() if tasks and tasks <= engine.queued(stage).keys()}


def done(plan, name, *tasks):
    for task in tasks or range(plan.stages[name].tasks):
        Watched(plan.output, plan.stages[name], task, "").done()


def test_a_part_that_is_refused(study, slurm):
    slurm.at = {2: "refused"}
    with pytest.raises(
        InvalidStudy, match=rf"refuses {SCORES}, part 2 of 2 \(Job violates policy\).*before it, 1 in number, stays"
    ):
        run(study())
    new, there = run(study())
    assert there == set()
    assert (new[SCORES], slurm.arrays["103"]) == (["103"], "0")  # the second part
    assert slurm.waits[new[SELECTION][0]] == ["101", "103"]
    assert slurm.waits[new[FULL][0]] == new[TOKENS] == ["105", "106"]
    new, there = run(study())
    assert (new, there) == ({}, set(study().stages))


def test_nothing_was_submitted(study, slurm):
    slurm.at = {1: "refused"}
    with pytest.raises(InvalidStudy, match="engine.slurm in s.yaml; nothing was submitted"):
        run(study())


@pytest.mark.parametrize("call", [1, 2])
def test_killed_before_a_job_is_noted(study, slurm, call):
    slurm.at = {call: "killed"}
    with pytest.raises(KeyboardInterrupt):
        run(study())
    notes = Path(study().output) / "slurm" / "jobs.jsonl"
    assert len([line for line in notes.read_text().splitlines() if "job" in json.loads(line)]) == call - 1
    notes.write_bytes(notes.read_bytes() + b'{"submission": "ab')  # and in the middle of another line
    new, there = run(study())
    assert sorted(slurm.arrays[job] for job in ("101", *new.get(SCORES, ["102"]))) == ["0", "0-1"]
    assert slurm.waits[new[SELECTION][0]] == ["101", "102"]
    assert (SCORES in there) == (call == 2)
    assert run(study())[0] == {}


def test_a_part_that_has_failed_while_another_lives(study, slurm):
    new, _ = run(study())
    first, second = new[SCORES]
    below = [job for stage in (SELECTION, RUN) for job in new[stage]]
    slurm.over(first)
    new, there = run(study())
    assert list(new) == [SCORES]
    assert slurm.arrays[new[SCORES][0]] == "0-1"
    assert {SELECTION, RUN} <= there
    assert slurm.waits[below[0]] == [second, *new[SCORES]]  # what was there already waits for it too
    assert slurm.waits[below[1]][-1] == below[0]


def test_a_number_that_has_failed_while_others_live(study, slurm):
    new, _ = run(study())
    first, second = new[SCORES]
    slurm.over(f"{first}_1", *new[SELECTION])
    new, _ = run(study())
    assert list(new) == [SCORES, SELECTION]
    assert slurm.arrays[new[SCORES][0]] == "1"
    # Its array will not be ok any more, its other number may
    assert slurm.waits[new[SELECTION][0]] == [f"{first}_0", second, *new[SCORES]]


def test_what_will_leave_is_submitted_again(study, slurm):
    new, _ = run(study())
    for row in slurm.rows:
        row[3] = "DependencyNeverSatisfied" if row[0] in new[RUN] else row[3]
    again, _ = run(study())
    assert RUN in again
    assert not {TOKENS, SCORES, SELECTION} & again.keys()


def test_numbers_that_stand_for_other_tasks(study, slurm):
    """A part in the queue keeps what it stands for when the study cuts arrays otherwise."""
    slurm.at = {3: "refused"}
    with pytest.raises(InvalidStudy):
        run(study(tasks=10, longest=2))
    new, _ = run(study(tasks=10, longest=3))
    assert [slurm.arrays[job] for job in ("101", "102")] == ["0-1", "0-1"]  # tasks 0-3
    assert [slurm.arrays[job] for job in new[SCORES]] == ["1-2", "0-2", "0"]  # 4-5, 6-8, 9
    assert [slurm.firsts[job] for job in new[SCORES]] == ["3", "6", "9"]


def test_a_job_on_its_way_back_into_the_queue(study, slurm):
    new, _ = run(study())
    tidied = next(row for row in slurm.rows if row[0] in new[FULL])
    tidied[2] = "CG"
    slurm.later = [lambda: None, lambda: tidied.__setitem__(2, "PD")]
    assert run(study())[0] == {}
    assert slurm.later == []


def test_a_job_that_is_tidied_up_for_good(study, slurm, monkeypatch):
    new, _ = run(study())
    for row in slurm.rows:
        row[2] = "CG" if row[0] in new[FULL] else "PD"
    monkeypatch.setattr("launch.engines.slurm._TIDYING", 0.05)
    assert FULL in run(study())[0]


def test_only_a_part_of_the_study(study, slurm):
    assert queued(study()) == set()
    tokens, _ = run(study(), TOKENS, SCORES)
    assert queued(study()) == {TOKENS, SCORES}
    new, there = run(study(), SELECTION, RUN)
    assert (list(new), there) == ([SELECTION, RUN], set())
    assert slurm.waits[new[SELECTION][0]] == tokens[SCORES]
    assert slurm.waits[new[RUN][0]] == [*tokens[TOKENS], *new[SELECTION]]
    slurm.over(tokens[SCORES][1], *new[SELECTION])
    assert queued(study()) == {TOKENS, RUN}
    with pytest.raises(InvalidStudy, match=rf"{SELECTION} .* need 1 stages that are not done .*--only {SCORES} first"):
        run(study(), SELECTION)
    done(study(), SCORES, 2)
    assert queued(study()) == {TOKENS, SCORES, RUN}
    new, _ = run(study(), SELECTION)
    assert slurm.waits[new[SELECTION][0]] == [tokens[SCORES][0]]


def test_jobs_that_are_not_of_this_study(study, slurm):
    run(study())
    with pytest.raises(InvalidStudy, match=r"is in the queue as job 101 with other settings .* scancel 101"):
        run(study(tasks=4))
    assert TOKENS not in queued(study(tasks=4))
    (Path(study().output) / "slurm" / "jobs.jsonl").unlink()  # the script tells that it is ours
    with pytest.raises(InvalidStudy, match="is in the queue as job 101"):
        run(study())
    slurm.rows = [["7", "N/A", "R", "None", "/home/me/other.sh a b"], ["8", "0", "CG", "None", "(null)"]]
    assert run(study())[1] == set()


def test_a_failure_is_forgotten(study, slurm):
    tokens = study().stages[TOKENS]
    Watched(study().output, tokens, 1, "log").stop("it failed")
    assert task_state(study().output, tokens, 1).state == "failed"
    run(study())
    assert task_state(study().output, tokens, 1).state == "waiting"


def test_a_job_that_leaves_without_a_word(study, slurm):
    """Its environment was wrong, or it was cancelled before it began: no file says so, the queue does."""
    new, _ = run(study())
    assert lost(study()) == {}
    slurm.over(f"{new[SCORES][0]}_1", new[SELECTION][0])
    found = lost(study())
    assert found.keys() == {(SCORES, 1)}  # the selection has left because of it
    job, log = found[SCORES, 1]
    assert job == new[SCORES][0]
    assert log == f"{study().output}/logs/{SCORES}/slurm-{job}_1.log"
    run(study())
    assert lost(study()) == {}
    done(study(), SCORES)
    slurm.rows.clear()
    found = lost(study())
    assert (SELECTION, 0) in found
    assert (RUN, 0) not in found  # it could not have begun
