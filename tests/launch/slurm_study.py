"""A study for Slurm whose corpus is on the Hub, so that planning it reads nothing."""

TOKENS, SCORES, SELECTION = "tokens/train", "scores/ask-llm-xl", "selections/ask-llm-xl/0.2"
FULL, RUN = "runs/t5-tiny/full-1-seed0", "runs/t5-tiny/ask-llm-xl-0.2-seed0"


def slurm_study(folder, tasks, slurm="{}", training="{}"):
    return f"""\
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
