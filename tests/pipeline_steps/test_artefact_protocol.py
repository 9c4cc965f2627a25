"""Every interleaving of small runs over one artefact, one file operation at a time, with kills before each of them.

The real `Artefact` runs on a file system whose operations are the steps of a model checker. A task is a deterministic
function of the answers it has had, so it is replayed with them up to its next operation. States that agree in files
and answers are met once. In every state a reader must find one of the corpora whole, or be refused.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache

import fsspec
import pytest
import xxhash
from fsspec.spec import AbstractFileSystem

from pipeline_steps.errors import CorpusError, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.stores import artefact as artefact_module
from pipeline_steps.stores import files as files_module
from pipeline_steps.stores.artefact import Artefact
from pipeline_steps.stores.files import canonical, open_folder, read_json, seal


ROOT = "steps://artefact"
A, AB, ABC, ABD, ABCD = ({name: f"text of {name}" for name in names} for names in ("a", "ab", "abc", "abd", "abcd"))


class NextOperation(BaseException):
    """A replayed task has come to the operation it has no answer to yet."""


class SteppedFileSystem(AbstractFileSystem):
    """Files in a dictionary, with the conditional put of an object store; earlier answers are replayed."""

    protocol = ("steps", "gs")
    cachable = True
    files: dict[str, bytes] = {}
    answers: list | None = None  # None: operations are simply done
    place = 0

    def _step(self, operation, *arguments):
        if self.answers is None:
            return getattr(self, f"_{operation}")(*arguments)
        if self.place == len(self.answers):
            raise NextOperation(operation, arguments)
        failed, answer = self.answers[self.place]
        self.place += 1
        if failed:
            raise answer
        return answer

    def do(self, operation, arguments):
        """Perform one operation; whether it failed, and its answer or error."""
        try:
            return False, getattr(self, f"_{operation}")(*arguments)
        except OSError as error:
            return True, error

    def cat_file(self, path, **_):
        return self._step("get", self._strip_protocol(path))

    def pipe_file(self, path, value, mode="overwrite", **_):
        self._step("put", self._strip_protocol(path), bytes(value), mode == "create")

    def rm(self, path, recursive=False, maxdepth=None):
        self._step("remove", self._strip_protocol(path))

    def ls(self, path, detail=True, **_):
        return self._step("list", self._strip_protocol(path).rstrip("/"), detail)

    def info(self, path, **_):
        return self._step("look", self._strip_protocol(path))

    def exists(self, path, **_):  # fsspec's own hides every error
        return self._step("there", self._strip_protocol(path))

    def _there(self, path):
        return path in self.files

    def _get(self, path):
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def _put(self, path, blob, exclusive):
        if exclusive and path in self.files:
            raise FileExistsError(path)
        self.files[path] = blob

    def _remove(self, path):
        if self.files.pop(path, None) is None:
            raise FileNotFoundError(path)

    def _list(self, folder, detail):
        below = sorted(
            {
                folder + "/" + name[len(folder) + 1 :].split("/")[0]
                for name in self.files
                if name.startswith(folder + "/")
            }
        )
        if not below:
            raise FileNotFoundError(folder)
        return [self._look(name) for name in below] if detail else below

    def _look(self, path):
        if path in self.files:
            return {"name": path, "size": len(self.files[path]), "type": "file"}
        if any(name.startswith(path + "/") for name in self.files):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)


fsspec.register_implementation("steps", SteppedFileSystem, clobber=True)


@pytest.fixture(autouse=True)
def remembered(monkeypatch):
    """Two functions without side effects whose same answers the replays ask for ten thousand times."""
    sealed = {}

    def remembered_seal(value):
        key = canonical(value)
        if key not in sealed:
            sealed[key] = seal(value)
        return sealed[key]

    for module in (artefact_module, files_module):
        monkeypatch.setattr(module, "seal", remembered_seal)
        monkeypatch.setattr(module, "open_folder", cache(open_folder))


@dataclass(frozen=True)
class Task:
    """One task of a run over a corpus (texts by source), with a setting that decides its parts."""

    rank: int
    tasks: int
    corpus: tuple
    setting: str = "same"
    bits: str = ""  # what another device would write otherwise

    def run(self):
        """As SourceStore does it, with JSON in the place of Parquet."""
        corpus = dict(self.corpus)
        store = Artefact(ROOT, "")
        store.begin("texts", {"setting": self.setting}, {"listing": corpus})
        entries = {}
        for source in sorted(corpus)[self.rank :: self.tasks]:
            part = self._whole(store, source)
            if part is None:
                blob = seal({"of": corpus[source], "bits": self.bits, "setting": self.setting})
                store.publish(source, blob, lambda source=source: self._whole(store, source) is not None)
                part = self._whole(store, source)
            entries[source] = part
        store.finish(self.rank, self.tasks, entries)

    def _whole(self, store, source):
        try:
            found = read_json(store.part(source))
        except (FileNotFoundError, StoreDamaged):
            return None
        if found["of"] != dict(self.corpus)[source]:
            raise StoreMismatch(f"{source} has changed")
        return found


def task(rank, tasks, corpus, **options):
    return Task(rank, tasks, tuple(sorted(corpus.items())), **options)


def run(corpus, tasks=2, **options):
    return [task(rank, tasks, corpus, **options) for rank in range(tasks)]


def read():
    """The texts of a finished artefact and the settings they were made with; None if it is refused by name."""
    store = Artefact(ROOT, "")
    try:
        found = {}
        for source, entry in store.manifest.items():
            part = read_json(store.part(source))
            if part != entry:
                raise StoreDamaged(store.part(source))
            assert part["setting"] == store.made["setting"], "settings were mixed"
            found[source] = part["of"]
        return found
    except (StoreIncomplete, StoreMismatch, StoreDamaged, CorpusError, FileNotFoundError):
        return None


def explore(tasks, kills, right, before=()):
    """Meet every state; return how many, and the ends: what a reader finds there, and which tasks were refused.

    Args:
        tasks: at work at the same time.
        kills: how many of them may be killed and started again, anywhere.
        right: corpora that a reader may find in any state.
        before: tasks that have run one after the other, or functions of the files.
    """
    fs = fsspec.core.url_to_fs(ROOT, use_listings_cache=False)[0]  # the instance that artefacts get
    fs.files, fs.answers = {}, None
    for step in before:
        step.run() if isinstance(step, Task) else step(fs.files)
    start = dict(fs.files), tuple(() for _ in tasks), kills
    seen, checked, ends, waiting = set(), set(), [], [start]
    while waiting:
        files, histories, left = waiting.pop()
        snapshot = _digest(sorted(files.items()))
        state = snapshot, _digest(histories), left
        if state in seen:
            continue
        seen.add(state)
        if snapshot not in checked:
            checked.add(snapshot)
            fs.files, fs.answers = dict(files), None
            assert read() in [None, *right], f"a reader found {read()}"
        moved = False
        refused = []
        for number, (one, history) in enumerate(zip(tasks, histories, strict=True)):
            if left and history:
                killed = tuple(() if other == number else answers for other, answers in enumerate(histories))
                waiting.append((files, killed, left - 1))
            fs.files, fs.answers, fs.place = dict(files), list(history), 0
            try:
                one.run()
                continue  # it has ended
            except (StoreMismatch, CorpusError) as error:
                refused.append(type(error))
                continue
            except NextOperation as asked:
                answer = fs.do(*asked.args)
            moved = True
            longer = tuple(
                (*answers, answer) if other == number else answers for other, answers in enumerate(histories)
            )
            waiting.append((fs.files, longer, left))
        if not moved:
            fs.files, fs.answers = dict(files), None
            ends.append((read(), tuple(refused), dict(files)))
    return len(seen), ends


def _digest(value):
    return xxhash.xxh3_128_digest(repr(value).encode())


def mended(files, corpus, tasks=1, **options):
    """What a reader finds after one more run, one task after the other."""
    fs = fsspec.core.url_to_fs(ROOT, use_listings_cache=False)[0]  # the instance that artefacts get
    fs.files, fs.answers = dict(files), None
    for one in run(corpus, tasks, **options):
        one.run()
    return read()


def damage(source):
    """Cut a part's end off."""

    def cut(files):
        (name,) = [name for name in files if f"/parts/{source}-" in name]
        files[name] = files[name][:-9]

    return cut


def test_one_run_of_two_tasks():
    states, ends = explore(run(AB), kills=1, right=[AB])
    assert states > 1000
    assert {json.dumps(found) for found, _, _ in ends} == {json.dumps(AB)}
    assert not any(refused for _, refused, _ in ends)


def test_documents_are_added():
    _, ends = explore(run(ABC), kills=1, right=[AB, ABC], before=run(AB))
    assert all(found == ABC for found, _, _ in ends)


def test_documents_are_added_after_a_run_that_found_nothing_to_do():
    _, ends = explore(run(ABC), kills=1, right=[AB, ABC], before=[*run(AB), *run(AB)])
    assert all(found == ABC for found, _, _ in ends)


def test_a_rank_that_is_skipped_leaves_it_incomplete():
    """As datatrove skips the ranks that an earlier run has noted as done."""
    _, ends = explore([task(1, 2, ABCD)], kills=2, right=[AB], before=run(AB))
    assert {found for found, _, _ in ends} == {None}
    for _, _, files in ends:
        assert mended(files, ABCD, 2) == ABCD


def test_two_settings_at_once_are_never_mixed():
    tasks = [task(0, 1, A, setting="one"), task(0, 1, A, setting="other")]
    _, ends = explore(tasks, kills=1, right=[A])
    assert all(found == A for found, _, _ in ends)
    assert {refused for _, refused, _ in ends} == {(StoreMismatch,)}


def test_another_number_of_tasks():
    _, ends = explore([task(1, 2, AB), task(0, 1, AB)], kills=0, right=[AB])
    assert all(found == AB for found, _, _ in ends)


def test_a_late_task_of_an_older_corpus():
    """It never makes the artefact the older corpus's; one run mends what is left."""
    _, ends = explore([task(0, 2, AB), *run(ABC, 1)], kills=0, right=[AB, ABC], before=[task(1, 2, AB)])
    for found, _, files in ends:
        assert found in (None, AB, ABC)
        assert mended(files, ABC) == ABC


def test_a_file_that_was_taken_out_is_refused_by_name_until_it_is_deleted():
    _, ends = explore(run(A), kills=1, right=[AB, A], before=run(AB))
    for found, _, files in ends:
        assert found is None
        (name,) = [name for name in files if "/parts/b-" in name]
        del files[name]
        assert mended(files, A, 2) == A


def test_one_part_with_other_bits():
    """Two devices differ in a model's last bit: the part that came first stays, and the manifest is of it."""
    tasks = [task(0, 1, A, bits="0"), task(0, 1, A, bits="1")]
    _, ends = explore(tasks, kills=0, right=[A])
    assert all(found == A for found, _, _ in ends)


def test_a_damaged_part_is_made_again():
    _, ends = explore(run(AB), kills=1, right=[AB], before=[*run(AB), damage("a")])
    assert all(found == AB for found, _, _ in ends)


def test_a_source_with_another_text_is_refused():
    changed = AB | {"b": "another text"}
    _, ends = explore(run(changed), kills=1, right=[AB], before=run(AB))
    assert Counter(refused for _, refused, _ in ends) == {(StoreMismatch,): len(ends)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "kills", "right", "before"),
    [
        pytest.param(run(AB), 2, [AB], [], id="two kills"),
        pytest.param(run(ABC), 2, [AB, ABC], run(AB), id="grown, two kills"),
        pytest.param([task(1, 2, AB), task(0, 1, AB)], 1, [AB], [], id="two tasks become one, a kill"),
        pytest.param([task(0, 2, AB), task(0, 1, ABC)], 1, [AB, ABC], [task(1, 2, AB)], id="a late task, a kill"),
        pytest.param([task(0, 1, A, bits=bit) for bit in "01"], 1, [A], [], id="other bits, a kill"),
        pytest.param([task(0, 1, ABC), task(0, 1, ABD)], 0, [AB, ABC, ABD], run(AB), id="grown twice"),
    ],
)
def test_larger_runs(tasks, kills, right, before):
    states, ends = explore(tasks, kills, right, before)
    print(f"{states:,} states")
    for found, _, _ in ends:
        assert found is None or found in right
