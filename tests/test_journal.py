"""The journal of a run: what is kept and when, what is refused, and how a run stops."""

import logging
import os
import signal
import threading

import numpy as np
import pytest

from taigs import identity
from taigs import journal as journals
from taigs.errors import InputError, RefusedError, ResourceError, StoppedError
from taigs.identity import fingerprint, identify
from taigs.journal import Journal
from taigs.progress import NoProgress


def names(checkpoints):
    return sorted(path.name for path in checkpoints.iterdir())


# --- parts ------------------------------------------------------------------------------------------------


def test_a_part_that_took_long_is_computed_once(open_journal, checkpoints):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(3)

    open_journal(minutes=0).part("seeds of all views", compute)
    assert names(checkpoints) == ["begun.npz", "seeds-of-all-views.npz"]
    np.testing.assert_array_equal(open_journal(resume=True).part("seeds of all views", compute), np.arange(3))
    assert len(calls) == 1


def test_a_part_that_took_no_time_is_computed_again(open_journal, checkpoints):
    open_journal().part("seeds", lambda: 1)
    assert names(checkpoints) == ["begun.npz"]
    assert open_journal(resume=True).part("seeds", lambda: 2) == 2


def test_a_part_that_another_process_took_long_for_is_kept(open_journal, checkpoints):
    journal = open_journal(minutes=1)
    assert not journal.holds("seeds")
    assert journal.part("seeds", lambda: 1, started=journals.time.monotonic() - 60) == 1
    assert journal.holds("seeds") and names(checkpoints) == ["begun.npz", "seeds.npz"]


def test_states_are_kept_at_intervals_the_last_two_and_go_with_their_part(open_journal, checkpoints):
    journal = open_journal(minutes=0)
    for step in range(8, 12):
        journal.tick("fit, volume", step, lambda step=step: {"step": step})
    journal.tick("fitting", 3, dict)
    assert names(checkpoints) == ["begun.npz", "fit-volume.step-00000010.npz", "fit-volume.step-00000011.npz",
                             "fitting.step-00000003.npz"]  # fmt: skip
    assert open_journal(resume=True, minutes=0).restore("fit, volume") == {"step": 11}
    open_journal(resume=True, minutes=0).part("fit", lambda: 1)
    assert names(checkpoints) == ["begun.npz", "fit.npz", "fitting.step-00000003.npz"], "of its own fits only"


def test_nothing_is_kept_before_its_time(open_journal, checkpoints, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(journals.time, "monotonic", lambda: now[0])
    journal = open_journal(minutes=2)
    for now[0] in (60, 119):
        journal.tick("fit", 1, dict)
    assert names(checkpoints) == ["begun.npz"]
    now[0] = 121
    journal.tick("fit", 2, dict)
    now[0] = 200
    journal.tick("fit", 3, dict)
    assert names(checkpoints) == ["begun.npz", "fit.step-00000002.npz"]


def test_without_a_folder_nothing_happens(tmp_path):
    journal = Journal()
    with journal:
        assert journal.part("a", lambda: 5) == 5 and journal.restore("a") is None
        journal.tick("a", 1, None)
        journal.save("a", 1, None)
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_gives_way_to_the_one_before_and_is_kept(open_journal, checkpoints, caplog):
    journal = open_journal(minutes=0)
    for step in (1, 2):
        journal.tick("fit", step, lambda step=step: step)
    newest = checkpoints / "fit.step-00000002.npz"
    newest.write_bytes(newest.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        assert open_journal(resume=True).restore("fit") == 1
    assert (
        "fit.step-00000002.npz: a damaged archive" in caplog.text
        and "going on from fit.step-00000001.npz" in caplog.text
    )
    assert newest.exists()


def test_a_part_is_not_begun_again_in_silence(open_journal, checkpoints):
    open_journal(minutes=0).tick("fit", 2, dict)
    (checkpoints / "fit.step-00000002.npz").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"fit.step-00000002.npz: a damaged archive.*remove the checkpoints of this part"
    ):
        open_journal(resume=True).restore("fit")
    (checkpoints / "seeds.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"seeds\.npz: a damaged archive"):
        open_journal(resume=True).part("seeds", dict)


def test_checkpoints_of_another_run_are_not_taken(open_journal, checkpoints):
    open_journal(minutes=0, identity={"seed": 1}).tick("fit", 2, dict)
    alien = (checkpoints / "fit.step-00000002.npz").read_bytes()
    open_journal()
    (checkpoints / "fit.step-00000002.npz").write_bytes(alien)
    with pytest.raises(InputError, match="checkpoint of another run"):
        open_journal(resume=True).restore("fit")


def test_a_new_run_forgets_the_old_one(open_journal, checkpoints):
    open_journal(minutes=0).tick("fit", 2, dict)
    assert open_journal().restore("fit") is None
    assert names(checkpoints) == ["begun.npz"]


def test_nothing_to_resume_is_said(open_journal, checkpoints):
    with pytest.raises(InputError, match=r"no checkpoints; .* try without --resume"):
        open_journal(resume=True)
    assert not checkpoints.exists()


# --- the run it belongs to --------------------------------------------------------------------------------


def test_other_settings_or_data_are_refused_field_by_field(open_journal):
    open_journal(identity={"seed": 0, "stack": "a.mrc", "sym": "C1", "old": 1})
    with pytest.raises(RefusedError) as refused:
        open_journal(resume=True, identity={"seed": 1, "stack": "a.mrc", "sym": "C2"})
    lines = str(refused.value).splitlines()
    assert lines[1:4] == ["  seed: 0 there, 1 here", "  sym: C1 there, C2 here", "  old: 1 there, None here"]
    open_journal(resume=True, identity={"seed": 0, "stack": "a.mrc", "sym": "C1", "old": 1})


def test_a_run_is_known_by_what_its_result_depends_on(tmp_path, cpu32):
    stack = tmp_path / "ts.mrc"
    stack.write_bytes(b"a" * 5000)
    settings = {"seed": 1, "output": tmp_path, "threads": 2, "quiet": True, "stack": stack, "contrast": signal.SIGINT}
    found = identify(settings, {"images": stack, "mask": None}, cpu32)
    assert set(found) == {"taigs", "backend", "seed", "stack", "contrast", "images"}
    moved = tmp_path / "copy" / "ts.mrc"
    moved.parent.mkdir()
    moved.write_bytes(stack.read_bytes())
    assert identify(settings | {"threads": 1, "stack": moved}, {"images": moved, "mask": None}, cpu32) == found


def test_a_fingerprint_changes_with_name_size_and_content(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "HASHED", 4096)
    files = [tmp_path / name for name in ("a.mrc", "b.mrc")]
    for file in files:
        file.write_bytes(b"x" * 3000)
    first = fingerprint(files)
    assert fingerprint(files) == first and "2 files, 6000 bytes" in first
    assert fingerprint(files[:1]) != first
    files[1].write_bytes(b"x" * 100 + b"y" + b"x" * 2899)
    assert fingerprint(files) != first
    files[1].write_bytes(b"x" * 3001)
    assert fingerprint(files) != first
    files[1].write_bytes(b"x" * 3000)
    assert fingerprint(files) == first


# --- trouble ----------------------------------------------------------------------------------------------


def test_a_full_disk_costs_a_checkpoint_and_the_third_time_the_run(open_journal, checkpoints, monkeypatch, caplog):
    journal = open_journal(minutes=0)
    journal.tick("fit", 1, dict)

    def full(path, *_):
        raise ResourceError(f"{path}: cannot be written (No space left on device)")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(journals, "write_checkpoint", full)
        journal.tick("fit", 2, dict)
        journal.tick("fit", 3, dict)
    assert caplog.text.count("No space left") == 2 and names(checkpoints) == ["begun.npz", "fit.step-00000001.npz"]
    journal.tick("fit", 4, dict)  # room again: the count begins anew
    monkeypatch.setattr(journals, "write_checkpoint", full)
    journal.tick("fit", 5, dict)
    journal.tick("fit", 6, dict)
    with pytest.raises(ResourceError, match="3 checkpoints in a row"):
        journal.tick("fit", 7, dict)
    monkeypatch.undo()
    assert open_journal(resume=True).restore("fit") == {}


def test_a_disk_too_full_for_the_results_leaves_what_was_computed(open_journal, checkpoints):
    with pytest.raises(ResourceError, match=r"^a\.mrc: full; what was computed is kept: make room and try --resume$"):
        with open_journal(minutes=0) as journal:
            journal.part("fit", dict)
            raise ResourceError("a.mrc: full")
    assert names(checkpoints) == ["begun.npz", "fit.npz"]


def test_two_runs_do_not_share_a_folder(open_journal, checkpoints):
    open_journal()
    with pytest.raises(RefusedError, match=rf"in use by process {os.getpid()} on .*try another folder"):
        Journal(checkpoints, {}, 60.0, resume=True)
    with pytest.raises(RefusedError):
        Journal(checkpoints, {}, 60.0)
    assert names(checkpoints) == ["begun.npz"], "the running one's are safe"


def test_a_lock_whose_process_is_gone_is_taken_over(open_journal, checkpoints):
    (checkpoints.parent / "checkpoints.lock").write_text("process 1 on nowhere\n")
    open_journal()
    assert (checkpoints.parent / "checkpoints.lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"


def test_signals_end_the_step_save_and_stop(open_journal, checkpoints):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(StoppedError) as stopped, open_journal() as journal:
            journal.tick("fit", 1, dict)
            os.kill(os.getpid(), number)
            journal.tick("fit", 2, dict)
        assert stopped.value.exit_code == 128 + number
        assert str(stopped.value) == f"stopped by {number.name} at step 2 of fit"
        assert names(checkpoints) == ["begun.npz", "fit.step-00000002.npz"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_bad_input_found_before_anything_is_kept_leaves_nothing(open_journal, checkpoints):
    with pytest.raises(InputError), open_journal():
        raise InputError("a.mrc: every voxel is 3")
    assert names(checkpoints.parent) == []
    with pytest.raises(InputError), open_journal(minutes=0) as journal:
        journal.tick("fit", 1, dict)
        raise InputError("b.mrc: changed")
    assert names(checkpoints) == ["begun.npz", "fit.step-00000001.npz"]


def test_a_second_signal_stops_at_once(open_journal, checkpoints):
    with pytest.raises(KeyboardInterrupt), open_journal():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert names(checkpoints) == ["begun.npz"]


def test_sigusr1_saves_once_and_goes_on(open_journal, checkpoints):
    journal = open_journal()
    with journal:
        os.kill(os.getpid(), signal.SIGUSR1)
        journal.tick("fit", 1, dict)
        journal.tick("fit", 2, dict)
        assert names(checkpoints) == ["begun.npz", "fit.step-00000001.npz"]
    assert not checkpoints.exists() and names(checkpoints.parent) == [], "nothing is left of a complete run"


def test_work_that_keeps_no_state_stops_where_it_reports(open_journal):
    with pytest.raises(StoppedError, match="between checkpoints"), open_journal() as journal:
        progress = journal.watch(NoProgress())
        progress.update(1, 10)
        os.kill(os.getpid(), signal.SIGINT)
        progress.update(2, 10)
    with pytest.raises(StoppedError), open_journal() as journal:
        os.kill(os.getpid(), signal.SIGINT)
        journal.part("seeds", dict)


def test_a_thread_does_without_signals(open_journal):
    failed = []

    def work():
        try:
            with open_journal():
                pass
        except ValueError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
