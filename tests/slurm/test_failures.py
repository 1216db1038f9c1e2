"""Jobs, nodes and main processes that end too soon: a study then has the same artefacts as an undisturbed one."""

import os
import shutil
import signal

import pytest

from cluster import LONG, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2400)]


def test_a_job_that_runs_out_of_memory_gets_more(place, ends_like_the_undisturbed):
    for stage in ("points", "compress", "solve"):
        shutil.rmtree(place.results / stage)
    little = {"mem_mb": "120 if attempt == 1 else 4000"}
    place.write_profile(rules={"points": little, "compress": little})
    said = place.start(place.manifest("solve/airports")).end()
    assert "exceeded memory limit" in said
    assert "Trying to restart job" in said
    ends_like_the_undisturbed(place, place.manifest("solve/airports"))


def test_a_training_whose_time_is_up_goes_on_where_it_was(interrupted, slurm, ends_like_the_undisturbed):
    short = {"checkpoint_steps": 5, "runtime": 2, "slurm_extra": "'--signal=TERM@5 --open-mode=append'"}
    interrupted.write_profile(rules={"train": short})
    main = interrupted.start(interrupted.manifest(LONG))
    job = interrupted.stop_in_the_middle(main)
    assert len(interrupted.stopped) == 2
    interrupted.go_on(when_asked_to_end=True)
    main.end()
    assert len(slurm.states(job)) == 2
    assert slurm.states(job)[-1] == "COMPLETED"
    assert "goes on at step" in interrupted.log_of(LONG)
    # Slurm's own log has both starts.
    (log,) = (interrupted.folder / "results" / "slurm" / "logs").rglob(f"{job}.log")
    assert "interrupted: " in log.read_text()
    assert "goes on at step" in log.read_text()
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))


def test_a_preempted_training_goes_on_when_there_is_room(interrupted, slurm, ends_like_the_undisturbed):
    interrupted.write_profile(rules={"train": {"checkpoint_steps": 5, "slurm_partition": "'scavenge'"}})
    main = interrupted.start(interrupted.manifest(LONG))
    job = interrupted.stop_in_the_middle(main)
    important = slurm.call(
        "sbatch",
        "--parsable",
        "-p",
        "gpu",
        "-N2",
        "--exclusive",
        "-t",
        "5",
        "-o",
        "/dev/null",
        "--wrap=sleep 300",
    ).strip()
    interrupted.go_on(when_asked_to_end=True)
    slurm.wait_for_states(important, "RUNNING")
    slurm.call("scancel", important)
    main.end()
    assert slurm.states(job)[-1] == "COMPLETED"
    assert len(slurm.states(job)) == 2
    assert "goes on at step" in interrupted.log_of(LONG)
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))


def test_a_cancelled_job_is_submitted_again(interrupted, slurm, ends_like_the_undisturbed):
    main = interrupted.start(interrupted.manifest(LONG))
    job = interrupted.stop_in_the_middle(main)
    slurm.call("scancel", job)
    interrupted.go_on(when_asked_to_end=True)
    main.end()
    slurm.wait_for_states(job, "CANCELLED")
    assert "goes on at step" in interrupted.log_of(LONG)
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))


def test_a_job_of_a_dead_node_goes_on_at_another(interrupted, slurm, ends_like_the_undisturbed):
    # Both processes on one node, so that there is another.
    interrupted.write_profile(rules={"train": {"checkpoint_steps": 5, "nodes": 1, "gres": "'gpu:2'"}})
    main = interrupted.start(interrupted.manifest(LONG))
    job = interrupted.stop_in_the_middle(main)
    node = slurm.call("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    # What the node was computing dies with it; without cgroups, processes here survive their slurmd.
    slurm.tell(f"kill {node}")
    for pid in interrupted.stopped:
        os.kill(pid, signal.SIGKILL)
    main.end()
    # The other node may have been done before Slurm gave this one up.
    state = ("sinfo", "-h", "-n", node, "-o", "%T")
    wait_until(lambda: slurm.call(*state).startswith("down"), f"{node} to be down")
    assert "goes on at step" in interrupted.log_of(LONG)
    slurm.tell(f"start {node}")
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))


def test_a_restart_of_the_controller_is_not_noticed(interrupted, slurm, ends_like_the_undisturbed):
    main = interrupted.start(interrupted.manifest(LONG), interrupted.manifest("convert/short"))
    job = interrupted.stop_in_the_middle(main)
    slurm.tell("kill slurmctld")
    slurm.tell("start slurmctld")
    interrupted.go_on()
    main.end()
    slurm.wait_for_states(job, "COMPLETED")
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))


def test_after_a_kill_of_the_main_process_the_next_one_goes_on(interrupted, slurm, ends_like_the_undisturbed):
    main = interrupted.start(interrupted.manifest(LONG))
    job = interrupted.stop_in_the_middle(main)
    main.process.kill()
    main.process.wait()
    slurm.wait_for_states(job, "RUNNING")
    second = interrupted.start(interrupted.manifest(LONG))
    interrupted.go_on(when_asked_to_end=True)
    said = second.end()
    assert f"Ended Slurm's jobs {job} of a main process that was killed" in said
    slurm.wait_for_states(job, "CANCELLED")
    assert "goes on at step" in interrupted.log_of(LONG)
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))


def test_what_ended_with_no_main_process_to_record_it_is_made_again(place, slurm, ends_like_the_undisturbed):
    target = place.manifest("train/short/seed0")
    (place.folder / target).unlink()
    main = place.start(target)
    wait_until(place.trainings, "a training")
    main.process.kill()
    main.process.wait()
    wait_until(lambda: not slurm.queue(), "the job to end")
    assert (place.folder / target).exists()
    assert "1 of 1 job done" in place.start(target).end()
    ends_like_the_undisturbed(place, target)


def test_a_second_main_process_is_refused_with_who_the_first_is(
    interrupted, slurm, ends_like_the_undisturbed
):
    main = interrupted.start(interrupted.manifest(LONG))
    interrupted.stop_in_the_middle(main)
    said = interrupted.start(interrupted.manifest(LONG)).end(code=2)
    assert f"in use by {os.environ.get('USER', 'root')}'s process {main.process.pid} on " in said
    assert len(slurm.queue()) == 1
    interrupted.go_on()
    main.end()
    ends_like_the_undisturbed(interrupted, interrupted.manifest(LONG))
