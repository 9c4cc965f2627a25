"""Branches of a wsd run, its trunk: runs to other budgets that begin with a checkpoint of its stable phase.

Up to where its decay begins, a wsd run does not depend on its budget. So a branch is an ordinary run, of the same
resolved.json and digests as one that nobody branched, which takes the steps up to a checkpoint of the trunk as made.
Any checkpoint of the stable phase will do: from an earlier one, some steps are made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline_steps.errors import StoreIncomplete
from pipeline_steps.stores.artefact import refuse_differences
from pipeline_steps.stores.files import read_json
from train.arguments import NEWER
from train.run_directory import latest_checkpoint, read_state
from train.schedules import DECAY_SETTINGS, decay_start


OF_BRANCH = ("total_tokens", "steps", *DECAY_SETTINGS)
"""Names in resolved.json of what a branch may have otherwise than its trunk."""


def refuse_another_trunk(trunk: Path, resolved: Mapping[str, Any]) -> None:
    """Raise StoreMismatch naming each setting of a trunk that its branch of these resolved settings has otherwise.

    Raises:
        StoreIncomplete: there is no run in this folder.
    """
    found, wanted = NEWER | _settings(trunk), NEWER | dict(resolved)
    refuse_differences(_shared(found, OF_BRANCH), _shared(wanted, OF_BRANCH), str(trunk))


def find_branch_point(trunk: Path, hashes: Mapping[str, str], last: int) -> Path:
    """Return the newest intact checkpoint of a trunk's stable phase that a branch may begin with.

    Args:
        trunk: run directory.
        hashes: digests of the branch.
        last: the last stable step of the branch.

    Raises:
        StoreIncomplete: the trunk has no such checkpoint.
        StoreMismatch: it is of another run, or holds a file that somebody has added.
    """
    settings = _settings(trunk)
    last = min(last, decay_start(settings["steps"], settings["decay_fraction"]))
    newest = latest_checkpoint(trunk, last)
    if newest is None:
        raise StoreIncomplete(
            f"{trunk} has no intact checkpoint up to step {last:,}, from where its branch would go on: train it that "
            "far, or train this budget on its own, without branch_from"
        )
    refuse_differences(_shared(read_state(newest)["hashes"], ["branch"]), _shared(hashes, ["branch"]), str(newest))
    return newest


def _settings(trunk: Path) -> dict[str, Any]:
    try:
        return read_json(f"{trunk}/resolved.json", "branch from another run")
    except FileNotFoundError:
        raise StoreIncomplete(
            f"{trunk} holds no run to branch from: give a run directory of winnow pretrain"
        ) from None


def _shared(values: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in own}
